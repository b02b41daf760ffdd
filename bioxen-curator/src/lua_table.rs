//! Reads the data files of LuaRocks, which are Lua assignments of constants, without running them.

use std::collections::BTreeMap;

/// A constant of Lua.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    String(String),
    Number(f64),
    Bool(bool),
    /// The entries with names, and those without in their order.
    Table(BTreeMap<String, Value>, Vec<Value>),
}

impl Value {
    pub(crate) fn fields(&self) -> Option<&BTreeMap<String, Value>> {
        match self {
            Self::Table(fields, _) => Some(fields),
            _ => None,
        }
    }

    /// The entries without names.
    pub(crate) fn items(&self) -> &[Value] {
        match self {
            Self::Table(_, items) => items,
            _ => &[],
        }
    }

    /// The entry of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.fields()?.get(name)
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }
}

/// Reads a file of assignments, `name = constant`.
///
/// # Errors
/// Fails with what is wrong and the line it is in.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<String, Value>, String> {
    let mut reader = Reader { text, at: 0 };
    let mut all = BTreeMap::new();
    loop {
        reader.blanks();
        if reader.rest().is_empty() {
            return Ok(all);
        }
        let name = reader.name()?;
        reader.expect('=')?;
        let value = reader.value(0)?;
        reader.take(';');
        all.insert(name, value);
    }
}

/// Tables nested deeper than this are refused.
const MAX_DEPTH: usize = 64;

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn error<T>(&self, what: &str) -> Result<T, String> {
        let line = self.text[..self.at].matches('\n').count() + 1;
        Err(format!("{what} in line {line}"))
    }

    fn blanks(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            let Some(comment) = trimmed.strip_prefix("--") else {
                return;
            };
            let is_long = comment.starts_with("[[") || comment.starts_with("[=");
            if is_long {
                self.at += 2;
                if self.long_string().is_ok() {
                    continue;
                }
                self.at -= 2;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// Takes this character if it comes next.
    fn take(&mut self, wanted: char) -> bool {
        self.blanks();
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        if self.take(wanted) {
            return Ok(());
        }
        self.error(&format!("{wanted:?} is missing"))
    }

    fn word(&self) -> &'t str {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+')))
            .unwrap_or(rest.len());
        &rest[..end]
    }

    fn name(&mut self) -> Result<String, String> {
        self.blanks();
        let word = self.word();
        let is_name = !word.is_empty()
            && !word.starts_with(|c: char| c.is_ascii_digit())
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_name {
            return self.error("a name is missing");
        }
        self.at += word.len();
        Ok(word.to_owned())
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        self.blanks();
        let rest = self.rest();
        if rest.starts_with('{') {
            return self.table(depth);
        }
        if rest.starts_with(['"', '\'']) {
            return Ok(Value::String(self.quoted()?));
        }
        if rest.starts_with("[[") || rest.starts_with("[=") {
            return Ok(Value::String(self.long_string()?));
        }
        let word = self.word();
        let value = match word {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            number => match number.parse() {
                Ok(number) => Value::Number(number),
                Err(_) => return self.error("a constant is missing"),
            },
        };
        self.at += word.len();
        Ok(value)
    }

    fn table(&mut self, depth: usize) -> Result<Value, String> {
        if depth == MAX_DEPTH {
            return self.error("tables are nested too deep");
        }
        self.expect('{')?;
        let (mut fields, mut items) = (BTreeMap::new(), Vec::new());
        while !self.take('}') {
            match self.key()? {
                Some(key) => {
                    let value = self.value(depth + 1)?;
                    fields.insert(key, value);
                }
                None => items.push(self.value(depth + 1)?),
            }
            if !self.take(',') && !self.take(';') {
                self.expect('}')?;
                break;
            }
        }
        Ok(Value::Table(fields, items))
    }

    /// Takes `name =` or `["name"] =` where it comes next.
    fn key(&mut self) -> Result<Option<String>, String> {
        self.blanks();
        let start = self.at;
        // Most entries of a manifest are tables, and an error would count all lines before it.
        if self.rest().starts_with(['{', '"', '\'']) {
            return Ok(None);
        }
        if self.rest().starts_with('[') && !self.rest().starts_with("[[") {
            self.take('[');
            let key = match self.value(MAX_DEPTH)? {
                Value::String(key) => key,
                Value::Number(number) => number.to_string(),
                Value::Bool(_) | Value::Table(..) => return self.error("a key is no string"),
            };
            self.expect(']')?;
            self.expect('=')?;
            return Ok(Some(key));
        }
        if let Ok(name) = self.name()
            && self.take('=')
        {
            return Ok(Some(name));
        }
        self.at = start;
        Ok(None)
    }

    fn quoted(&mut self) -> Result<String, String> {
        let rest = self.rest();
        let mut chars = rest.char_indices().peekable();
        let quote = chars.next().map(|(_, c)| c);
        let mut out = String::new();
        while let Some((at, c)) = chars.next() {
            if Some(c) == quote {
                self.at += at + c.len_utf8();
                return Ok(out);
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            match chars.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some('t') => out.push('\t'),
                Some(digit @ '0'..='9') => {
                    let mut code = digit.to_digit(10).unwrap_or_default();
                    for _ in 0..2 {
                        let Some(next) = chars.peek().and_then(|(_, c)| c.to_digit(10)) else {
                            break;
                        };
                        code = code * 10 + next;
                        chars.next();
                    }
                    out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                Some(other) => out.push(other),
                None => break,
            }
        }
        self.error("a string has no end")
    }

    fn long_string(&mut self) -> Result<String, String> {
        let rest = &self.rest()[1..];
        let level = rest.len() - rest.trim_start_matches('=').len();
        let close = format!("]{}]", "=".repeat(level));
        let body = rest.get(level + 1..).unwrap_or_default();
        match (rest[level..].starts_with('['), body.find(&close)) {
            (true, Some(end)) => {
                self.at += 1 + level + 1 + end + close.len();
                let body = &body[..end];
                Ok(body.strip_prefix('\n').unwrap_or(body).to_owned())
            }
            _ => self.error("a string has no end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_read_as_lua_reads_them() {
        let text = r#"
            -- made by hand
            commands = {}
            rock_manifest = {
               ["a-1.0-1.rockspec"] = "b1\"\\\10\065",
               lua = { ["x.lua"] = 'q', sub = { ["y.lua"] = [==[
two]] lines]==] } },
               list = { "one"; true, -2.5, { } },
            }
        "#;
        let all = parse(text).unwrap();
        let manifest = all["rock_manifest"].fields().unwrap();
        assert_eq!(
            manifest["a-1.0-1.rockspec"],
            Value::String("b1\"\\\nA".into())
        );
        let sub = manifest["lua"].fields().unwrap()["sub"].fields().unwrap();
        assert_eq!(sub["y.lua"], Value::String("two]] lines".into()));
        let empty = || Value::Table(BTreeMap::new(), Vec::new());
        assert_eq!(
            manifest["list"],
            Value::Table(
                BTreeMap::new(),
                vec![
                    Value::String("one".into()),
                    Value::Bool(true),
                    Value::Number(-2.5),
                    empty()
                ]
            )
        );
        assert_eq!(all["commands"], empty());
    }

    #[test]
    fn what_is_no_constant_is_refused_with_its_line() {
        for (bad, line) in [
            ("a = os.exit()", 1),
            ("a = {\n b = function() end }", 2),
            ("a = {\n\n", 3),
            ("a = \"x", 1),
            ("a = [[x", 1),
            ("= 1", 1),
            ("a", 1),
            ("a = 1 b = a .. 2", 1),
            ("local a = 1", 1),
            ("a = { [true] = 1 }", 1),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(
                error.ends_with(&format!("in line {line}")),
                "{bad}: {error}"
            );
        }
        let deep = format!("a = {}{}", "{".repeat(200), "}".repeat(200));
        assert!(parse(&deep).is_err());
    }
}
