//! Values as `values.lua` writes them: read, and written again.

use std::cmp::Ordering;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::{LuaTable, LuaValue, Returned};

/// How deep tables may be nested; the driver sends none that is deeper.
const DEPTH: usize = 128;

/// What a frame of this kind says.
pub(crate) fn read(kind: u8, data: &Bytes) -> Returned {
    match kind {
        b'V' => match values(data) {
            Some(values) if values.is_empty() => Returned::Nothing,
            Some(values) => Returned::Values(values),
            None => Returned::NotData("something that its driver did not write".into()),
        },
        _ => Returned::NotData(String::from_utf8_lossy(data).into_owned()),
    }
}

/// A value as bytes, exactly: for a file, or for another Lua program to read.
///
/// The form is the one in which values travel: `z` nil, `t` and `f` booleans, `i5;` an integer,
/// `d0.5;` another number, `s3:abc` a string with its length in bytes, `{1,2:` a table with the
/// numbers of its array values and its fields, which follow, each field as key and value.
#[must_use]
pub fn encode(value: &LuaValue) -> Bytes {
    let mut data = BytesMut::new();
    put(&mut data, value);
    data.freeze()
}

/// The value that [`encode`] made these bytes of; `None` for any others.
#[must_use]
pub fn decode(data: &Bytes) -> Option<LuaValue> {
    let mut reader = Reader { data, at: 0 };
    let value = reader.value(0)?;
    (reader.at == data.len()).then_some(value)
}

fn put(data: &mut BytesMut, value: &LuaValue) {
    match value {
        LuaValue::Nil => data.put_u8(b'z'),
        LuaValue::Boolean(true) => data.put_u8(b't'),
        LuaValue::Boolean(false) => data.put_u8(b'f'),
        LuaValue::Integer(number) => data.put_slice(format!("i{number};").as_bytes()),
        // The shortest form that gives the same number again; `inf`, `-inf`, `NaN`.
        LuaValue::Float(number) => data.put_slice(format!("d{number:?};").as_bytes()),
        LuaValue::String(bytes) => {
            data.put_slice(format!("s{}:", bytes.len()).as_bytes());
            data.put_slice(bytes);
        }
        LuaValue::Table(table) => {
            let (length, fields) = (table.array.len(), table.fields.len());
            data.put_slice(format!("{{{length},{fields}:").as_bytes());
            for value in &table.array {
                put(data, value);
            }
            for (key, value) in &table.fields {
                put(data, key);
                put(data, value);
            }
        }
    }
}

fn values(data: &Bytes) -> Option<Vec<LuaValue>> {
    let mut reader = Reader { data, at: 0 };
    let mut values = Vec::new();
    while reader.at < data.len() {
        values.push(reader.value(0)?);
    }
    Some(values)
}

struct Reader<'d> {
    data: &'d Bytes,
    at: usize,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Option<LuaValue> {
        let tag = *self.data.get(self.at)?;
        self.at += 1;
        Some(match tag {
            b'z' => LuaValue::Nil,
            b't' => LuaValue::Boolean(true),
            b'f' => LuaValue::Boolean(false),
            b'i' => LuaValue::Integer(self.until(b';')?.parse().ok()?),
            b'd' => LuaValue::Float(self.until(b';')?.parse().ok()?),
            b's' => {
                let length: usize = self.until(b':')?.parse().ok()?;
                let end = self.at.checked_add(length)?;
                if end > self.data.len() {
                    return None;
                }
                let bytes = self.data.slice(self.at..end);
                self.at = end;
                LuaValue::String(bytes)
            }
            b'{' if depth < DEPTH => {
                let length: usize = self.until(b',')?.parse().ok()?;
                let fields: usize = self.until(b':')?.parse().ok()?;
                let mut table = LuaTable::default();
                for _ in 0..length {
                    table.array.push(self.value(depth + 1)?);
                }
                for _ in 0..fields {
                    let key = self.value(depth + 1)?;
                    table.fields.push((key, self.value(depth + 1)?));
                }
                // Lua's own order differs from run to run.
                table.fields.sort_by(|(a, _), (b, _)| order(a, b));
                LuaValue::Table(table)
            }
            _ => return None,
        })
    }

    fn until(&mut self, end: u8) -> Option<&str> {
        let rest = &self.data[self.at..];
        let length = rest.iter().take(40).position(|byte| *byte == end)?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).ok()
    }
}

fn order(a: &LuaValue, b: &LuaValue) -> Ordering {
    let rank = |value: &LuaValue| match value {
        LuaValue::Nil => 0,
        LuaValue::Boolean(_) => 1,
        LuaValue::Integer(_) => 2,
        LuaValue::Float(_) => 3,
        LuaValue::String(_) => 4,
        LuaValue::Table(_) => 5,
    };
    match (a, b) {
        (LuaValue::Boolean(a), LuaValue::Boolean(b)) => a.cmp(b),
        (LuaValue::Integer(a), LuaValue::Integer(b)) => a.cmp(b),
        (LuaValue::Float(a), LuaValue::Float(b)) => a.total_cmp(b),
        (LuaValue::String(a), LuaValue::String(b)) => a.cmp(b),
        (a, b) => rank(a).cmp(&rank(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_as_they_were_written_and_fields_in_order() {
        let data = Bytes::from_static(b"i-3;d0.5;dinf;ztf{2,2:s1:xi1;s1:bts1:ai9;");
        let Some(values) = values(&data) else {
            panic!("not read")
        };
        let text: Vec<String> = values.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "-3",
                "0.5",
                "1/0",
                "nil",
                "true",
                "false",
                "{\"x\", 1, a = 9, b = true}"
            ]
        );
    }

    #[test]
    fn a_value_is_the_same_after_writing_and_reading() {
        let data = b"{2,3:i-3;d1e300;s1:bts1:a{0,0:d0.1;dinf;";
        let value = decode(&Bytes::from_static(data)).unwrap();
        assert_eq!(decode(&encode(&value)), Some(value));
        let number = LuaValue::Float(f64::NAN);
        assert!(decode(&encode(&number)).unwrap().as_f64().unwrap().is_nan());
        assert_eq!(decode(&Bytes::from_static(b"i1;i2;")), None);
    }

    #[test]
    fn what_no_driver_wrote_is_no_value_and_no_crash() {
        for data in [
            "i",
            "ix;",
            "s9:x",
            "{9,9:",
            "{",
            "q",
            "s18446744073709551615:x",
            "d;",
        ] {
            assert_eq!(values(&Bytes::from_static(data.as_bytes())), None, "{data}");
        }
        assert_eq!(values(&"{1,0:".repeat(100_000).into()), None);
    }
}
