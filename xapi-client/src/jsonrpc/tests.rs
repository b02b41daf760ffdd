use proptest::prelude::*;
use serde_json::json;

use super::*;

fn answer(body: &str) -> Result<Reply> {
    open("VM.start", Bytes::from(body.to_owned()))
}

fn failure(body: &[u8]) -> (String, Vec<String>) {
    match open("VM.start", Bytes::copy_from_slice(body)) {
        Err(Error::Api(failure)) => (failure.code.as_str().to_owned(), failure.params),
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_are_json_whatever_the_parameters() {
    let body = encode(
        3,
        "VM.clone",
        Some("OpaqueRef:\"s"),
        &[json!("é\n"), json!({"a": [1.5]})],
    );
    let parsed: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        parsed,
        json!({"jsonrpc": "2.0", "id": 3, "method": "VM.clone",
               "params": ["OpaqueRef:\"s", "é\n", {"a": [1.5]}]})
    );
    let body = encode(0, "session.login_with_password", None, &[]);
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap()["params"],
        json!([])
    );
}

#[test]
fn results_are_found_wherever_they_stand() {
    for body in [
        r#"{"jsonrpc":"2.0","result":"OpaqueRef:1","id":1}"#,
        r#" {"id":0, "error":null, "result" : "OpaqueRef:1" , "jsonrpc":"2.0"} "#,
        r#"{"jsonrpc":"2.0","result":"OpaqueRef:1","id":"1"}"#,
    ] {
        assert_eq!(
            answer(body).unwrap().decode::<String>().unwrap(),
            "OpaqueRef:1"
        );
    }
}

#[test]
fn a_result_that_looks_like_the_end_of_an_answer_is_one_result() {
    let text = r#"{"jsonrpc":"2.0","result":"x\",\"id\":1}","id":27}"#;
    let result: String = answer(text).unwrap().decode().unwrap();
    assert_eq!(result, r#"x","id":1}"#);
    for cut in [
        r#"{"jsonrpc":"2.0","result":["a","id":1}"#,
        r#"{"jsonrpc":"2.0","result":,"id":1}"#,
    ] {
        let decoded = answer(cut).and_then(|reply| reply.decode::<Vec<String>>());
        assert!(matches!(decoded, Err(Error::Decode { .. })), "{cut}");
    }
}

#[test]
fn failures_come_as_an_object_or_as_an_array() {
    let object = br#"{"jsonrpc":"2.0","error":{"code":1,"message":"VM_BAD_POWER_STATE","data":["r","halted","running"]},"id":1}"#;
    let expected = ["r", "halted", "running"].map(str::to_owned).to_vec();
    assert_eq!(failure(object), ("VM_BAD_POWER_STATE".into(), expected));
    let array = br#"{"jsonrpc":"2.0","error":["HOST_STILL_BOOTING"],"id":0}"#;
    assert_eq!(failure(array), ("HOST_STILL_BOOTING".into(), vec![]));
    let bare = br#"{"jsonrpc":"2.0","error":{"code":1,"message":"MESSAGE_REMOVED"},"id":1}"#;
    assert_eq!(failure(bare), ("MESSAGE_REMOVED".into(), vec![]));
    let numbers = br#"{"error":["NEW_CODE",7,["x"]],"id":1}"#;
    assert_eq!(
        failure(numbers),
        ("NEW_CODE".into(), vec!["7".into(), r#"["x"]"#.into()])
    );
}

#[test]
fn numbers_that_are_not_finite_are_repaired_outside_strings_only() {
    let body = r#"{"jsonrpc":"2.0","result":{"a":NaN,"b":[Infinity,-Infinity,-1],"c":"NaN, \"Infinity\\","d":": NaN"},"id":1}"#;
    let result: Value = answer(body).unwrap().decode().unwrap();
    assert_eq!(
        result,
        json!({"a": "NaN", "b": ["Infinity", "-Infinity", -1], "c": "NaN, \"Infinity\\", "d": ": NaN"})
    );
    assert!(
        answer(r#"{"result":NaN}"#)
            .unwrap()
            .decode::<f64>()
            .unwrap()
            .is_nan()
    );
}

#[test]
fn bytes_that_are_no_utf8_do_not_hide_a_failure() {
    let (code, params) = failure(
        b"{\"error\":{\"code\":1,\"message\":\"INVALID_VALUE\",\"data\":[\"a\xff\"]},\"id\":1}",
    );
    assert_eq!(
        (code.as_str(), params[0].as_str()),
        ("INVALID_VALUE", "a\u{fffd}")
    );
}

#[test]
fn what_is_no_answer_names_the_method() {
    for body in [
        "",
        "<html>",
        "[]",
        "{}",
        r#"{"result":"unfinished"#,
        r#"{"result":1} x"#,
    ] {
        let error = answer(body).unwrap_err();
        assert!(matches!(error, Error::Decode { .. }), "{body}: {error:?}");
        assert!(error.to_string().contains("VM.start"), "{body}");
    }
}

/// Any JSON value.
fn values() -> impl Strategy<Value = Value> {
    let text = any::<String>();
    let scalars = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter_map("JSON has finite numbers only", serde_json::Number::from_f64)
            .prop_map(Value::Number),
        text.prop_map(Value::from),
        prop::sample::select(vec!["NaN", "-Infinity", "\": NaN", "\\"]).prop_map(Value::from),
    ];
    scalars.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(text, inner, 0..6)
                .prop_map(|members| Value::Object(serde_json::Map::from_iter(members))),
        ]
    })
}

proptest! {
    #[test]
    fn values_survive_the_round_trip(value in values()) {
        let request = encode(1, "VM.x", Some("s"), std::slice::from_ref(&value));
        let request: Value = serde_json::from_slice(&request).unwrap();
        prop_assert_eq!(&request["params"][1], &value);
        // A bare null is no result.
        let body = json!({"jsonrpc": "2.0", "result": [value], "id": 1}).to_string();
        prop_assert_eq!(answer(&body).unwrap().decode::<Value>().unwrap(), json!([value]));
        let body = format!(r#"{{"jsonrpc":"2.0","result":[{value}],"id":1}}"#);
        prop_assert_eq!(answer(&body).unwrap().decode::<Value>().unwrap(), json!([value]));
        // A number elsewhere that is no JSON leads through the repair, which must not touch the rest.
        let body = format!(r#"{{"result":[NaN,{value}],"id":1}}"#);
        prop_assert_eq!(
            answer(&body).unwrap().decode::<Value>().unwrap(),
            json!(["NaN", value])
        );
    }

    #[test]
    fn any_bytes_are_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut body = b"{\"result\":".to_vec();
        body.extend(&bytes);
        let whole = [&br#"{"jsonrpc":"2.0","result":"#[..], &bytes, br#","id":1}"#].concat();
        for body in [bytes, body, whole] {
            if let Ok(reply) = open("VM.start", Bytes::from(body)) {
                let _ = reply.decode::<crate::api::VmRecord>();
            }
        }
    }
}
