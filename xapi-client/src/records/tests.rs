//! The same entries come, however the bytes are split.

use std::collections::VecDeque;
use std::task::Waker;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A server whose answer comes in these pieces.
#[derive(Debug)]
struct Split(Vec<Bytes>);

struct Queue(VecDeque<Bytes>);

impl Stream for Queue {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

#[async_trait::async_trait]
impl Transport for Split {
    async fn send(&self, _: Request) -> Result<Bytes> {
        Ok(self.0.concat().into())
    }

    async fn stream(&self, _: Request) -> Result<BodyStream> {
        Ok(Box::pin(Queue(self.0.clone().into())))
    }

    fn host(&self) -> &str {
        "split"
    }
}

/// Runs a future of which nothing waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("it waits"),
    }
}

fn read<V: DeserializeOwned>(protocol: Protocol, pieces: Vec<Bytes>) -> Result<Vec<(String, V)>> {
    let request = Request::new("VM.get_all_records", "", std::time::Duration::ZERO);
    let mut arriving = now(Arriving::exchange(&Split(pieces), protocol, request))?;
    let mut entries = Vec::new();
    loop {
        let next = poll_fn(|context| arriving.poll_next(context, "VM.get_all_records"));
        match now(next)? {
            Some(entry) => entries.push(entry),
            None => return Ok(entries),
        }
    }
}

fn split(text: &[u8], mut cuts: Vec<usize>) -> Vec<Bytes> {
    cuts.sort_unstable();
    let mut from = 0;
    let mut pieces = Vec::new();
    for cut in cuts.into_iter().map(|cut| cut % (text.len() + 1)) {
        pieces.push(Bytes::copy_from_slice(&text[from.min(cut)..cut]));
        from = from.max(cut);
    }
    pieces.push(Bytes::copy_from_slice(&text[from..]));
    pieces
}

fn bytes(text: &[u8]) -> Vec<Bytes> {
    text.chunks(1).map(Bytes::copy_from_slice).collect()
}

fn values() -> impl Strategy<Value = Value> {
    let scalars = prop_oneof![
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "[a-z\\\\\"{}\\[\\],:é ]{0,12}".prop_map(Value::from),
        Just(json!("NaN")),
    ];
    scalars.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z\"\\\\]{1,6}", inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn maps() -> impl Strategy<Value = serde_json::Map<String, Value>> {
    prop::collection::vec(("[a-z:\"\\\\é]{1,9}", values()), 0..5)
        .prop_map(|entries| entries.into_iter().collect())
}

/// As servers write it.
fn xml(value: &Value) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let inner = match value {
        Value::Bool(value) => format!("<boolean>{}</boolean>", u8::from(*value)),
        Value::Number(number) if number.is_f64() => format!("<double>{number}</double>"),
        Value::Number(number) => format!("<int>{number}</int>"),
        Value::String(text) => escape(text),
        Value::Array(items) => {
            let items: String = items.iter().map(xml).collect();
            format!("<array><data>{items}</data></array>")
        }
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| {
                format!(
                    "<member><name>{}</name>{}</member>",
                    escape(name),
                    xml(value)
                )
            };
            let members: String = members.iter().map(member).collect();
            format!("<struct>{members}</struct>")
        }
        Value::Null => "<nil/>".to_owned(),
    };
    format!("<value>{inner}</value>")
}

fn envelope(result: &Value) -> String {
    let answer = json!({"Status": "Success", "Value": result});
    format!(
        "<?xml version=\"1.0\"?><methodResponse><params><param>{}</param></params></methodResponse>",
        xml(&answer)
    )
}

proptest! {
    #[test]
    fn any_split_of_json_gives_the_same_records(
        map in maps(),
        cuts in prop::collection::vec(any::<usize>(), 0..9),
        pretty in any::<bool>(),
    ) {
        let answer = json!({"jsonrpc": "2.0", "id": 1, "result": map});
        let text = if pretty {
            serde_json::to_string_pretty(&answer).unwrap()
        } else {
            answer.to_string()
        };
        // As servers write it.
        let text = text.replace("\"NaN\"", "NaN");
        let expected: Vec<(String, Value)> = map.into_iter().collect();
        for pieces in [split(text.as_bytes(), cuts), bytes(text.as_bytes())] {
            prop_assert_eq!(&read::<Value>(Protocol::JsonRpc, pieces).unwrap(), &expected);
        }
    }

    #[test]
    fn any_split_of_xml_gives_the_same_records(
        map in maps(),
        cuts in prop::collection::vec(any::<usize>(), 0..9),
    ) {
        let text = envelope(&Value::Object(map.clone()));
        let whole = crate::xmlrpc::open("VM.get_all_records", text.clone().into()).unwrap();
        let expected: Vec<(String, Value)> =
            whole.decode::<BTreeMap<String, Value>>().unwrap().into_iter().collect();
        for pieces in [split(text.as_bytes(), cuts), bytes(text.as_bytes())] {
            prop_assert_eq!(&read::<Value>(Protocol::XmlRpc, pieces).unwrap(), &expected);
        }
    }

    #[test]
    fn a_cut_answer_is_an_error_and_never_a_shorter_map(map in maps(), cut in any::<usize>()) {
        let json = json!({"jsonrpc": "2.0", "id": 1, "result": map}).to_string();
        let xml = envelope(&Value::Object(map));
        let end = cut % json.len();
        let cut_json = split(&json.as_bytes()[..end], Vec::new());
        prop_assert!(read::<Value>(Protocol::JsonRpc, cut_json).is_err());
        // Of XML, what follows the result is of no interest.
        let end = cut % xml.rfind("</struct></value></member>").unwrap();
        let cut_xml = split(&xml.as_bytes()[..end], Vec::new());
        prop_assert!(read::<Value>(Protocol::XmlRpc, cut_xml).is_err());
    }

    #[test]
    fn any_bytes_are_entries_or_an_error(
        noise in prop::collection::vec(any::<u8>(), 0..60),
        protocol in prop::sample::select(vec![Protocol::JsonRpc, Protocol::XmlRpc]),
    ) {
        let beginnings = [
            String::new(),
            "{\"result\":{".to_owned(),
            "{\"result\":{\"a\":".to_owned(),
            envelope(&json!({})).replace("<struct></struct></value></member>", "<struct><member>"),
        ];
        for beginning in beginnings {
            let text = [beginning.as_bytes(), &noise].concat();
            let _ = read::<Value>(protocol, bytes(&text));
        }
    }
}

#[test]
fn numbers_are_not_taken_before_they_end() {
    let text = r#"{"jsonrpc":"2.0","result":{"a":123,"b":-4.5e3,"c":true},"id":1}"#;
    let entries = read::<Value>(Protocol::JsonRpc, bytes(text.as_bytes())).unwrap();
    let expected = [("a", json!(123)), ("b", json!(-4500.0)), ("c", json!(true))];
    assert_eq!(
        entries,
        expected.map(|(key, value)| (key.to_owned(), value))
    );
}

#[test]
fn an_empty_map_has_no_entries() {
    let xml = envelope(&json!({}));
    for (protocol, text) in [
        (
            Protocol::JsonRpc,
            r#"{"id":1,"result":{ }, "error":null}"#.to_owned(),
        ),
        (
            Protocol::XmlRpc,
            xml.replace("<struct></struct>", "<struct/>"),
        ),
        (Protocol::XmlRpc, xml),
    ] {
        for pieces in [bytes(text.as_bytes()), split(text.as_bytes(), Vec::new())] {
            assert!(
                read::<Value>(protocol, pieces).unwrap().is_empty(),
                "{text}"
            );
        }
    }
}

#[test]
fn every_form_of_a_failure_is_one() {
    for text in [
        r#"{"jsonrpc":"2.0","error":{"code":1,"message":"SESSION_INVALID","data":["x"]},"id":1}"#,
        r#"{"jsonrpc":"2.0","error":["SESSION_INVALID","x"],"id":0}"#,
        r#"{"result":null,"error":["SESSION_INVALID","x"],"id":1}"#,
        r#"{"result":{},"error":["SESSION_INVALID","x"],"id":1}"#,
    ] {
        let error = read::<Value>(Protocol::JsonRpc, bytes(text.as_bytes())).unwrap_err();
        assert!(error.failure().unwrap().is_session_invalid(), "{error}");
    }
    let answer = json!({"Status": "Failure", "ErrorDescription": ["SESSION_INVALID", "x"]});
    let text = format!(
        "<methodResponse><params><param>{}</param></params></methodResponse>",
        xml(&answer)
    );
    let error = read::<Value>(Protocol::XmlRpc, bytes(text.as_bytes())).unwrap_err();
    assert!(error.failure().unwrap().is_session_invalid(), "{error}");
}

#[test]
fn what_is_no_map_says_so() {
    let text = br#"{"result":["a"],"id":1}"#;
    let error = read::<Value>(Protocol::JsonRpc, bytes(text)).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("no map"), "{source}");
}

#[test]
fn a_record_with_bytes_that_are_no_text_is_read_all_the_same() {
    let text = b"{\"result\":{\"a\":\"x\xffy\",\"b\":-Infinity},\"id\":1}";
    let entries = read::<Value>(Protocol::JsonRpc, bytes(text)).unwrap();
    let expected = [("a", json!("x\u{fffd}y")), ("b", json!("-Infinity"))];
    assert_eq!(
        entries,
        expected.map(|(key, value)| (key.to_owned(), value))
    );
}
