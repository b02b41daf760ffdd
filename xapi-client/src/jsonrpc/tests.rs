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
    ] {
        assert_eq!(
            answer(body).unwrap().decode::<String>().unwrap(),
            "OpaqueRef:1"
        );
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
