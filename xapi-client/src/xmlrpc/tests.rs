use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Number, json};

use super::*;
use crate::Ref;
use crate::api::{EventOperation, Vm, VmPowerState, VmRecord};
use crate::event::EventBatch;

fn answer(xml: &str) -> Result<Reply> {
    open("VM.start", Bytes::from(xml.to_owned()))
}

/// A successful answer, as servers write it.
fn success(value: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>Status</name>\
         <value>Success</value></member><member><name>Value</name>{value}</member></struct></value></param>\
         </params></methodResponse>"
    )
}

fn decoded<R: DeserializeOwned>(value: &str) -> R {
    answer(&success(value)).unwrap().decode().unwrap()
}

#[test]
fn values_of_all_types() {
    for (xml, expected) in [
        ("<value>OpaqueRef:1</value>", json!("OpaqueRef:1")),
        ("<value></value>", json!("")),
        ("<value/>", json!("")),
        ("<value>  </value>", json!("  ")),
        (
            "<value>a &lt;b&gt; &amp; &#65;<![CDATA[<c>]]></value>",
            json!("a <b> & A<c>"),
        ),
        ("<value><string>x</string></value>", json!("x")),
        ("<value><i4>-7</i4></value>", json!(-7)),
        (
            "<value><i8>9223372036854775807</i8></value>",
            json!(i64::MAX),
        ),
        ("<value><boolean>1</boolean></value>", json!(true)),
        ("<value><double>0.5</double></value>", json!(0.5)),
        ("<value><double>nan</double></value>", json!("NaN")),
        ("<value><double>-inf</double></value>", json!("-Infinity")),
        ("<value><nil/></value>", json!(null)),
        (
            "<?xml version=\"1.0\"?>\n<!-- c --><value><array>\n<data><value>a</value> <value/></data></array></value>",
            json!(["a", ""]),
        ),
        (
            "<value><struct><member><name>k</name><value><array><data/></array></value></member>\
             </struct></value>",
            json!({"k": []}),
        ),
    ] {
        assert_eq!(decode::<Value>(xml).unwrap(), expected, "{xml}");
    }
}

#[test]
fn what_is_no_value_is_refused() {
    for xml in [
        "",
        "<value>",
        "<other/>",
        "<value><i4>x</i4></value>",
        "<value><boolean>2</boolean></value>",
        "<value><what/></value>",
        "<value>text<i4>1</i4></value>",
        "<value><array><data>text</data></array></value>",
        "<value><struct><member><value/></member></struct></value>",
    ] {
        assert!(decode::<Value>(xml).is_err(), "{xml}");
    }
    let deep = "<value><array><data>".repeat(100_000);
    assert!(matches!(decode::<Value>(&deep), Err(XmlRpcError::TooDeep)));
    assert!(matches!(
        decode::<IgnoredAny>(&deep),
        Err(XmlRpcError::TooDeep)
    ));
}

#[test]
fn a_result_that_is_longer_than_its_type_is_refused() {
    let pair = "<value><array><data><value>1</value><value>2</value><value>3</value></data></array></value>";
    assert!(decode::<(i64, i64)>(pair).is_err());
    assert_eq!(decode::<(i64, i64, i64)>(pair).unwrap(), (1, 2, 3));
}

#[test]
fn integers_without_a_type_are_read_at_every_depth() {
    assert_eq!(decoded::<i64>("<value>42</value>"), 42);
    let map: BTreeMap<i64, Vec<Option<f64>>> = decoded(
        "<value><struct><member><name>-4</name><value><array><data><value>2</value>\
         <value><double>inf</double></value><value><nil/></value></data></array></value></member></struct></value>",
    );
    assert_eq!(map[&-4], [Some(2.0), Some(f64::INFINITY), None]);
    decoded::<()>("<value></value>");
    let record: VmRecord = decoded(
        "<value><struct><member><name>uuid</name><value>u</value></member>\
         <member><name>memory_static_max</name><value>2147483648</value></member>\
         <member><name>is_a_template</name><value><boolean>1</boolean></value></member>\
         <member><name>power_state</name><value>Halted</value></member>\
         <member><name>snapshot_time</name><value><dateTime.iso8601>20250319T04:16:24Z</dateTime.iso8601></value></member>\
         <member><name>affinity</name><value>OpaqueRef:NULL</value></member>\
         <member><name>of_tomorrow</name><value><array><data><value/></data></array></value></member>\
         </struct></value>",
    );
    assert_eq!(record.memory_static_max, 1 << 31);
    assert!(record.is_a_template && record.affinity.is_null());
    assert_eq!(record.power_state, VmPowerState::Halted);
    assert_eq!(record.snapshot_time.unix_seconds(), 1_742_357_784);
}

#[test]
fn keys_that_servers_do_not_escape_are_read_as_they_are() {
    let map: BTreeMap<String, String> = decoded(
        "<value><struct><member><name>c&d</name><value>1</value></member>\
         <member><name>&nbsp;x&</name><value>a &amp; b</value></member>\
         <member><name>a<b></name><value>2</value></member></struct></value>",
    );
    assert_eq!(
        map,
        BTreeMap::from([
            ("c&d".to_owned(), "1".to_owned()),
            ("&nbsp;x&".to_owned(), "a & b".to_owned()),
            ("a<b>".to_owned(), "2".to_owned())
        ])
    );
}

#[test]
fn snapshots_of_events_become_json() {
    let batch: EventBatch = decoded(
        "<value><struct><member><name>token</name><value>7,0</value></member>\
         <member><name>valid_ref_counts</name><value><struct><member><name>vm</name><value><i4>2</i4></value>\
         </member></struct></value></member><member><name>events</name><value><array><data><value><struct>\
         <member><name>class</name><value>vm</value></member><member><name>operation</name><value>mod</value>\
         </member><member><name>ref</name><value>v</value></member><member><name>snapshot</name><value><struct>\
         <member><name>memory_target</name><value>5</value></member></struct></value></member></struct></value>\
         <value><struct><member><name>class</name><value>vm</value></member><member><name>operation</name>\
         <value>del</value></member></struct></value></data></array></value></member></struct></value>",
    );
    assert_eq!(batch.valid_ref_counts["vm"], 2);
    assert_eq!(batch.events[0].operation, EventOperation::Mod);
    let snapshot = batch.events[0].snapshot.as_ref().unwrap();
    assert_eq!(snapshot.get(), r#"{"memory_target":"5"}"#);
    assert!(batch.events[0].record::<Vm>().unwrap().is_some());
    assert!(batch.events[1].snapshot.is_none());
}

#[test]
fn results_are_found_wherever_they_stand() {
    let reversed = "<methodResponse><params><param><value><struct><member><name>Value</name><value><array><data>\
         <value>x</value></data></array></value></member><member><name>Status</name><value>Success</value>\
         </member></struct></value></param></params></methodResponse>";
    let list: Vec<String> = answer(reversed).unwrap().decode().unwrap();
    assert_eq!(list, ["x"]);
    // `system.listMethods` has no status.
    let bare = "<methodResponse><params><param><value><array><data><value>VM.start</value></data></array>\
         </value></param></params></methodResponse>";
    let list: Vec<String> = answer(bare).unwrap().decode().unwrap();
    assert_eq!(list, ["VM.start"]);
}

#[test]
fn failures_hold_their_parameters_even_where_those_are_no_utf8() {
    let body = b"<methodResponse><params><param><value><struct><member><name>Status</name><value>Failure</value>\
        </member><member><name>ErrorDescription</name><value><array><data><value>INVALID_VALUE</value>\
        <value>a\xff</value><value><i4>7</i4></value></data></array></value></member></struct></value></param></params>\
        </methodResponse>";
    let error = open("VM.start", Bytes::from_static(body)).unwrap_err();
    let failure = error.failure().unwrap();
    assert_eq!(failure.code.as_str(), "INVALID_VALUE");
    assert_eq!(failure.params, ["a\u{fffd}", "7"]);
}

#[test]
fn what_is_no_answer_names_the_method() {
    for body in [
        "",
        "{}",
        "<html></html>",
        "<methodResponse><params><param><value><struct>",
        "<methodResponse><params><param><value><struct><member><name>Status</name><value>Success</value>\
         </member></struct></value></param></params></methodResponse>",
        "<methodResponse><fault><value><struct><member><name>faultString</name><value>no</value></member>\
         </struct></value></fault></methodResponse>",
    ] {
        let error = answer(body).unwrap_err();
        assert!(matches!(error, Error::Decode { .. }), "{body}: {error:?}");
        assert!(error.to_string().contains("VM.start"), "{body}");
    }
}

#[test]
fn results_of_tasks_may_be_no_xml() {
    let of_task = |text: &str| Reply::of_task("VM.clone", text.to_owned()).decode::<Value>();
    assert_eq!(of_task("").unwrap(), json!(""));
    assert_eq!(of_task("done").unwrap(), json!("done"));
    assert_eq!(of_task(" <value>x</value>").unwrap(), json!("x"));
}

#[test]
fn requests_are_xml_whatever_the_parameters() {
    let params = [json!({"a<b": [1, 1.5, true]}), json!("x & \r\n y")];
    let body = encode("VM.clone", Some("OpaqueRef:s"), &params).unwrap();
    assert_eq!(
        std::str::from_utf8(&body).unwrap(),
        "<?xml version=\"1.0\"?><methodCall><methodName>VM.clone</methodName><params>\
         <param><value><string>OpaqueRef:s</string></value></param>\
         <param><value><struct><member><name>a&lt;b</name><value><array><data><value><int>1</int></value>\
         <value><double>1.5</double></value><value><boolean>1</boolean></value></data></array></value></member>\
         </struct></value></param>\
         <param><value><string>x &amp; &#13;\n y</string></value></param></params></methodCall>"
    );
    let error = encode("VM.clone", None, &[json!(["a", {"b": "\u{1}"}])]).unwrap_err();
    assert!(error.to_string().contains("U+0001"), "{error}");
}

/// Any value that a parameter can be; text without what XML cannot express.
fn values() -> impl Strategy<Value = Value> {
    let text = r"[\PC\t\n\r]{0,12}";
    let scalars = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter_map("JSON has finite numbers only", Number::from_f64)
            .prop_map(Value::Number),
        text.prop_map(Value::from),
    ];
    scalars.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(text, inner, 0..6)
                .prop_map(|members| Value::Object(Map::from_iter(members))),
        ]
    })
}

proptest! {
    #[test]
    fn values_survive_the_round_trip(value in values()) {
        let mut xml = String::new();
        write(&mut xml, &value).unwrap();
        prop_assert_eq!(decode::<Value>(&xml).unwrap(), value.clone());
        prop_assert_eq!(answer(&success(&xml)).unwrap().decode::<Value>().unwrap(), value);
    }

    #[test]
    fn any_bytes_are_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(reply) = open("VM.start", Bytes::from(bytes)) {
            let _ = reply.decode::<VmRecord>();
        }
    }

    /// Nearer to real answers than random bytes.
    #[test]
    fn any_sequence_of_tags_is_an_answer_or_an_error(
        tags in prop::collection::vec(prop::sample::select(vec![
            "<value>", "</value>", "<struct>", "</struct>", "<member>", "</member>", "<name>", "</name>",
            "<array>", "</array>", "<data>", "</data>", "<int>", "</int>", "<nil/>", "Status", "Success",
            "Value", "1", "&", "&#1;", "<![CDATA[", "]]>", "<!--",
        ]), 0..40)
    ) {
        let text = tags.concat();
        let _ = decode::<Value>(&text);
        let _ = decode::<BTreeMap<Ref<Vm>, VmRecord>>(&text);
        let _ = answer(&format!("<methodResponse><params><param>{text}"));
    }
}

/// What is not read is passed over without a look at what it is made of, but not past its end.
#[test]
fn what_nobody_reads_is_passed_over_whatever_it_holds() {
    let odd = "<value><struct><member><name>v<value</name><value attribute=\"<\"><![CDATA[</value>]]></value>\
               </member></struct><!-- </value> --></value>";
    let list = format!("<value><array><data>{odd}<value>b</value></data></array></value>");
    let (IgnoredAny, rest): (IgnoredAny, String) = decode(&list).unwrap();
    assert_eq!(rest, "b");
    for cut in ["<value>", "<value><value/>", "<value><!-- </value>"] {
        assert!(decode::<IgnoredAny>(cut).is_err(), "{cut}");
    }
}
