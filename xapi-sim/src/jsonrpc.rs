//! The JSON-RPC envelopes: version 1.0 and 2.0, told apart request by request.

use crate::failure::{Failure, Reply};
use crate::json;
use crate::value::Value;

/// A call as the envelope carried it.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) version: Version,
    pub(crate) id: Value,
    pub(crate) method: String,
    pub(crate) params: Vec<Value>,
}

/// Which envelope to answer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// Reads a request body. The error is the text of the exception that the server would answer
/// with HTTP 500.
pub(crate) fn parse(body: &str) -> Result<Call, String> {
    let document = json::parse(body).map_err(|error| error.exception())?;
    let malformed = |what: &str| format!("Jsonrpc.Malformed_method_request(\"{what}\")");
    let Value::Struct(_) = document else {
        return Err(malformed("Invalid request body"));
    };
    let method = match document.get("method") {
        Some(Value::String(method)) => method.clone(),
        Some(_) => return Err(malformed("Invalid field 'method' in request body")),
        None => return Err(malformed("Required field method is missing")),
    };
    let version = match document.get("jsonrpc") {
        None => Version::V1,
        Some(Value::String(version)) if version == "2.0" => Version::V2,
        Some(_) => return Err(malformed("Invalid field 'jsonrpc' in request body")),
    };
    let params = match (version, document.get("params")) {
        (_, Some(Value::Array(params))) => params.clone(),
        (Version::V2, None | Some(Value::Nil)) => Vec::new(),
        (Version::V2, Some(named @ Value::Struct(_))) => vec![named.clone()],
        (Version::V1, None) => return Err(malformed("Required field params is missing")),
        _ => return Err(malformed("Invalid field 'params' in request body")),
    };
    let id = match document.get("id") {
        Some(id @ (Value::Int(_) | Value::String(_))) => id.clone(),
        _ => return Err(malformed("Invalid field 'id' in request body")),
    };
    Ok(Call {
        version,
        id,
        method,
        params,
    })
}

/// Writes the answer.
pub(crate) fn reply(version: Version, id: &Value, reply: &Reply) -> String {
    let mut out = String::new();
    let (key, value) = match (version, reply) {
        (_, Ok(value)) => ("result", value.clone()),
        (Version::V1, Err(failure)) => ("error", failure.to_value()),
        (Version::V2, Err(failure)) => ("error", error_object(failure)),
    };
    let text = |text: &str| text.to_owned();
    let members = match version {
        Version::V1 => {
            let other = if key == "result" { "error" } else { "result" };
            let mut pair = vec![(text(key), value), (text(other), Value::Nil)];
            if key == "error" {
                pair.reverse();
            }
            pair.push((text("id"), id.clone()));
            pair
        }
        Version::V2 => vec![
            (text("jsonrpc"), Value::from("2.0")),
            (text(key), value),
            (text("id"), id.clone()),
        ],
    };
    json::write(&mut out, &Value::Struct(members));
    out
}

/// The answer to a call that failed before it was dispatched: always a 2.0 envelope with id 0,
/// yet with the error in the form of 1.0. Real servers do this, so clients have to cope.
pub(crate) fn undispatched(failure: &Failure) -> String {
    let mut out = String::new();
    let members = vec![
        ("jsonrpc".to_owned(), Value::from("2.0")),
        ("error".to_owned(), failure.to_value()),
        ("id".to_owned(), Value::Int(0)),
    ];
    json::write(&mut out, &Value::Struct(members));
    out
}

fn error_object(failure: &Failure) -> Value {
    Value::Struct(vec![
        // The server always says 1; the real code is the message.
        ("code".to_owned(), Value::Int(1)),
        ("message".to_owned(), Value::from(failure.code.as_str())),
        (
            "data".to_owned(),
            Value::strings(failure.params.iter().cloned()),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes() {
        let ok: Reply = Ok(Value::void());
        let bad: Reply = Err(Failure::new("VM_IS_TEMPLATE", ["r", "start"]));
        for (version, answer, text) in [
            (Version::V1, &ok, r#"{"result":"","error":null,"id":1}"#),
            (Version::V2, &ok, r#"{"jsonrpc":"2.0","result":"","id":1}"#),
            (
                Version::V1,
                &bad,
                r#"{"result":null,"error":["VM_IS_TEMPLATE","r","start"],"id":1}"#,
            ),
            (
                Version::V2,
                &bad,
                r#"{"jsonrpc":"2.0","error":{"code":1,"message":"VM_IS_TEMPLATE","data":["r","start"]},"id":1}"#,
            ),
        ] {
            assert_eq!(reply(version, &Value::Int(1), answer), text);
        }
        assert_eq!(
            undispatched(&Failure::code("HOST_STILL_BOOTING")),
            r#"{"jsonrpc":"2.0","error":["HOST_STILL_BOOTING"],"id":0}"#
        );
    }

    #[test]
    fn ids_and_params() {
        for id in ["1", "-7", "\"abc\"", "\"\"", "9223372036854775807"] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m","extra":1}}"#);
            assert!(
                parse(&body).is_ok_and(|call| call.params.is_empty()),
                "{body}"
            );
        }
        for id in ["null", "1.5", "true", "{}", "18446744073709551616", "NaN"] {
            for version in ["\"jsonrpc\":\"2.0\",", ""] {
                let body = format!(r#"{{{version}"id":{id},"method":"m","params":[]}}"#);
                assert!(parse(&body).is_err(), "{body}");
            }
        }
        let named = parse(r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1}}"#).unwrap();
        assert_eq!(named.params.len(), 1);
        for body in [
            "[]",
            r#"[{"id":1,"method":"m","params":[]}]"#,
            r#"{"id":1,"method":"m"}"#,
            r#"{"jsonrpc":2.0,"id":1,"method":"m"}"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#,
            r#"{"jsonrpc":null,"id":1,"method":"m"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":"x"}"#,
            r#"{"jsonrpc":"2.0","method":"m"}"#,
        ] {
            assert!(parse(body).is_err(), "{body}");
        }
    }
}
