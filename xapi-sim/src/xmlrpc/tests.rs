use super::*;
use crate::failure::Failure;

fn call(params: &str) -> Result<Call, String> {
    parse(&format!(
        "<?xml version=\"1.0\"?>\n<methodCall><methodName>VM.start</methodName>{params}</methodCall>"
    ))
}

fn one(value: &str) -> Value {
    call(&format!("<params><param>{value}</param></params>"))
        .unwrap()
        .params
        .remove(0)
}

#[test]
fn values_in_all_their_forms() {
    assert_eq!(
        one("<value>a&amp;<![CDATA[<b>]]>&#65;</value>"),
        Value::from("a&<b>A")
    );
    assert_eq!(one("<value><string/></value>"), Value::void());
    assert_eq!(one("<value/>"), Value::void());
    assert_eq!(one("<value>  </value>"), Value::from("  "));
    assert_eq!(one("<value> <int>7</int> </value>"), Value::Int(7));
    assert_eq!(one("<value><i8>-1</i8></value>"), Value::Int(-1));
    assert_eq!(
        one("<value><double>1.5</double></value>"),
        Value::Float(1.5)
    );
    assert_eq!(
        one("<value><boolean>1</boolean></value>"),
        Value::Bool(true)
    );
    assert_eq!(one("<value><nil/></value>"), Value::Nil);
    assert_eq!(
        one("<value><array><data> <value>x</value>\n</data></array></value>"),
        Value::strings(["x"])
    );
    assert_eq!(
        one("<value><struct><member><name>k</name><value>v</value></member></struct></value>"),
        Value::map([("k", "v")])
    );
}

#[test]
fn documents() {
    assert!(call("<params/>").unwrap().params.is_empty());
    assert!(call("").is_err(), "params may not be missing");
    assert!(call("<!-- c --><params> <param> <value>x</value></param></params>").is_ok());
    let trailing =
        "<!DOCTYPE x><methodCall><methodName>m</methodName><params></params></methodCall>junk";
    assert_eq!(parse(trailing).unwrap().method, "m");
    assert_eq!(
        parse("{\"jsonrpc\":\"2.0\"}").unwrap_err(),
        "Xmlm.Error(1:1, \"expected root element\")"
    );
    assert!(
        parse("<methodCall><methodName>x\n")
            .unwrap_err()
            .starts_with("Xmlm.Error(")
    );
    let nested = format!("<params><param>{}", "<value><array><data>".repeat(5000));
    assert!(call(&nested).is_err());
}

#[test]
fn replies() {
    let text = reply(&Ok(Value::Struct(vec![
        ("i".to_owned(), Value::Int(123)),
        ("f".to_owned(), Value::Float(1.0)),
        ("b".to_owned(), Value::Bool(false)),
        ("n".to_owned(), Value::Int32(4)),
        ("s".to_owned(), Value::from("<a&\"\u{1}>")),
    ])));
    assert_eq!(
        text,
        "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct>\
         <member><name>Status</name><value>Success</value></member>\
         <member><name>Value</name><value><struct>\
         <member><name>i</name><value>123</value></member>\
         <member><name>f</name><value><double>1</double></value></member>\
         <member><name>b</name><value><boolean>0</boolean></value></member>\
         <member><name>n</name><value><i4>4</i4></value></member>\
         <member><name>s</name><value>&lt;a&amp;&quot;&gt;</value></member>\
         </struct></value></member></struct></value></param></params></methodResponse>"
    );
    let failure = reply(&Err(Failure::new("HANDLE_INVALID", ["VM", "x"])));
    assert!(failure.contains(
        "<name>ErrorDescription</name><value><array><data><value>HANDLE_INVALID</value>"
    ));
}
