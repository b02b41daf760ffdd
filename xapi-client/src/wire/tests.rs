use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::api::{HostRecord, VdiType, VmPowerState, VmRecord};
use crate::reference::Ref;

fn seconds(text: &str) -> i64 {
    text.parse::<DateTime>().unwrap().unix_seconds()
}

#[test]
fn dates_in_every_form_that_servers_use() {
    let expected = 1_742_357_784;
    for text in [
        "20250319T04:16:24Z",
        "20250319T04:16:24",
        "20250319T041624Z",
        "2025-03-19T04:16:24Z",
        "2025-03-19T04:16:24.123Z",
        "2025-03-19T04:16:24.123456",
        "2025-03-19 04:16:24",
        "20250319T05:16:24+01:00",
        "20250319T05:16:24+0100",
        "20250319T05:16:24+01",
        "2025-03-18T23:46:24-04:30",
        "1742357784",
        "1742357784.0",
    ] {
        assert_eq!(seconds(text), expected, "{text}");
    }
    assert_eq!(seconds("20250319"), 1_742_342_400);
    assert_eq!(seconds("2025-03-19"), 1_742_342_400);
    assert_eq!(seconds("20250319T04:16Z"), 1_742_357_760);
}

#[test]
fn never_is_the_epoch() {
    for text in ["19700101T00:00:00Z", "", "0.0"] {
        assert!(text.parse::<DateTime>().unwrap().is_never(), "{text}");
    }
}

#[test]
fn dates_outside_the_usual_years() {
    for (text, expected) in [
        ("20000229T00:00:00Z", 951_782_400),
        ("19691231T23:59:59Z", -1),
        ("19000301T00:00:00Z", -2_203_891_200),
        ("24000229T12:00:00Z", 13_574_606_400),
    ] {
        assert_eq!(seconds(text), expected, "{text}");
        assert_eq!(DateTime::from_unix_seconds(expected).to_string(), text);
    }
    let time = std::time::SystemTime::from(DateTime::from_unix_seconds(-5));
    assert_eq!(DateTime::from(time).unix_seconds(), -5);
}

#[test]
fn what_is_no_date_is_refused() {
    for text in [
        "yesterday",
        "2025-13-01",
        "20250319T25:00:00Z",
        "NaN",
        "20250319T04:16:24+1",
    ] {
        let error = text.parse::<DateTime>().unwrap_err();
        assert!(error.to_string().contains(text), "{text}");
    }
}

#[test]
fn integers_and_floats_in_every_spelling() {
    assert_eq!(decode::<i64>("9223372036854775807").unwrap(), i64::MAX);
    assert_eq!(decode::<i64>(r#""-7""#).unwrap(), -7);
    assert_eq!(decode::<i64>("3.0").unwrap(), 3);
    assert!(decode::<i64>("3.5").is_err());
    assert!(decode::<i64>(r#""x""#).is_err());
    assert_eq!(decode::<f64>("1").unwrap(), 1.0);
    assert_eq!(decode::<f64>(r#""1""#).unwrap(), 1.0);
    assert_eq!(decode::<f64>("1e+20").unwrap(), 1e20);
    for word in ["NaN", "nan", "-nan"] {
        assert!(
            decode::<f64>(&format!("\"{word}\"")).unwrap().is_nan(),
            "{word}"
        );
    }
    for word in ["inf", "Infinity", "+inf", "INF"] {
        assert_eq!(
            decode::<f64>(&format!("\"{word}\"")).unwrap(),
            f64::INFINITY,
            "{word}"
        );
    }
    assert_eq!(decode::<f64>(r#""-Infinity""#).unwrap(), f64::NEG_INFINITY);
    assert!(decode::<bool>(r#""1""#).unwrap());
    assert!(!decode::<bool>("0").unwrap());
}

#[test]
fn leniency_reaches_every_depth() {
    let map: BTreeMap<i64, Vec<f64>> = decode(r#"{"1":["2",3],"-4":["Infinity"]}"#).unwrap();
    assert_eq!(map[&1], [2.0, 3.0]);
    assert_eq!(map[&-4], [f64::INFINITY]);
    let nested: Vec<Option<i64>> = decode(r#"[null,"5"]"#).unwrap();
    assert_eq!(nested, [None, Some(5)]);
}

#[test]
fn void_is_whatever_comes() {
    for text in [r#""""#, "null", "{}", r#"[1,{"a":2}]"#] {
        decode::<()>(text).unwrap();
    }
}

#[test]
fn records_take_what_older_and_newer_servers_send() {
    let record: VmRecord = decode(
        r#"{"uuid":"u","power_state":"Hibernating","memory_static_max":"1073741824","VCPUs_max":2,
            "affinity":"OpaqueRef:NULL","suspend_VDI":"","resident_on":"OpaqueRef:h",
            "HVM_shadow_multiplier":1.0,"snapshot_time":"19700101T00:00:00Z",
            "field_of_tomorrow":{"a":[1]}}"#,
    )
    .unwrap();
    assert_eq!(record.uuid.as_str(), "u");
    assert_eq!(
        record.power_state,
        VmPowerState::Unrecognized("Hibernating".into())
    );
    assert_eq!(record.power_state.as_str(), "Hibernating");
    assert_eq!((record.memory_static_max, record.vcpus_max), (1 << 30, 2));
    assert!(record.affinity.is_null() && record.suspend_vdi.is_null());
    assert_eq!(
        record.resident_on.non_null().map(Ref::as_str),
        Some("OpaqueRef:h")
    );
    assert!(record.snapshot_time.is_never());
    // Not sent at all.
    assert!(record.appliance.is_null() && record.tags.is_empty());
}

#[test]
fn a_value_of_a_wrong_type_names_itself() {
    let error = decode::<HostRecord>(r#"{"enabled":"maybe"}"#)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("maybe") && error.contains("boolean"),
        "{error}"
    );
}

#[test]
fn references_keep_their_text_and_know_null() {
    let reference: Ref<crate::api::Vm> = decode(r#""DummyRef:|u|VM.start""#).unwrap();
    assert_eq!(reference.to_wire(), json!("DummyRef:|u|VM.start"));
    assert_eq!(
        Ref::<crate::api::Vm>::null().to_wire(),
        json!("OpaqueRef:NULL")
    );
    assert_eq!(Ref::<crate::api::Vm>::new(""), Ref::null());
    assert_eq!(format!("{reference:?}"), "VM(DummyRef:|u|VM.start)");
    let session = Ref::<crate::api::Session>::new("OpaqueRef:secret");
    assert!(!format!("{session:?}").contains("secret"));
}

#[test]
fn parameters_go_out_as_the_server_reads_them() {
    assert_eq!(VdiType::User.to_wire(), json!("user"));
    assert_eq!(f64::NEG_INFINITY.to_wire(), json!("-inf"));
    assert_eq!(1.0.to_wire(), json!(1.0));
    assert_eq!(
        DateTime::from_unix_seconds(1_742_357_784).to_wire(),
        json!("20250319T04:16:24Z")
    );
    let time = DateTime::from_unix_seconds(1_742_357_784);
    assert_eq!(format!("{time:#}"), "2025-03-19T04:16:24Z");
    assert_eq!(
        BTreeMap::from([(1_i64, true)]).to_wire(),
        json!({"1": true})
    );
    assert_eq!(["a", "b"].as_slice().to_wire(), json!(["a", "b"]));
}

#[test]
fn trailing_parameters_are_sent_up_to_the_last_given_one() {
    let given = |first: Option<i64>, second: Option<&str>| {
        with_optional(
            vec![json!("a")],
            &mut [
                (first.map(|value| value.to_wire()), "7"),
                (second.map(|value| value.to_wire()), r#""x""#),
            ],
        )
    };
    assert_eq!(given(None, None), [json!("a")]);
    assert_eq!(given(Some(1), None), [json!("a"), json!(1)]);
    assert_eq!(given(None, Some("b")), [json!("a"), json!(7), json!("b")]);
}
