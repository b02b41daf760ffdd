//! The static tables hold together.

use xapi_client::meta::{CLASSES, ENUMS, ERRORS, Kind, State, Type, VERSIONS, class};

/// Calls `check` for a type and every type within it.
fn each(ty: &'static Type, check: &mut dyn FnMut(&'static Type)) {
    check(ty);
    match ty {
        Type::Set(inner) | Type::Option(inner) => each(inner, check),
        Type::Map(key, value) => {
            each(key, check);
            each(value, check);
        }
        _ => {}
    }
}

#[test]
fn every_type_names_something_that_exists() {
    let mut check = |ty: &'static Type| match ty {
        Type::Enum(name) => assert!(ENUMS.iter().any(|item| item.name == *name), "{name}"),
        Type::Ref(name) => assert!(class(name).is_some(), "{name}"),
        Type::Record(name) => assert!(*name == "<class>" || class(name).is_some(), "{name}"),
        _ => {}
    };
    for class in CLASSES {
        class
            .fields
            .iter()
            .for_each(|field| each(&field.ty, &mut check));
        for message in class.messages {
            each(&message.result, &mut check);
            message
                .params
                .iter()
                .for_each(|param| each(&param.ty, &mut check));
        }
    }
}

#[test]
fn relations_lead_back() {
    let mut relations = 0;
    for class in CLASSES {
        for field in class.fields {
            let Some((other, name)) = field.relation else {
                continue;
            };
            let back = self::class(other)
                .and_then(|class| class.field(name))
                .unwrap();
            assert_eq!(
                back.relation,
                Some((class.name, field.name)),
                "{other}.{name}"
            );
            relations += 1;
        }
    }
    assert!(relations > 100, "{relations}");
}

#[test]
fn messages_know_their_field_and_their_class() {
    for class in CLASSES {
        for message in class.messages {
            assert_eq!(
                message.wire_name,
                format!("{}.{}", class.name, message.name)
            );
            let on_field = matches!(
                message.kind,
                Kind::FieldGet | Kind::FieldSet | Kind::FieldAdd | Kind::FieldRemove
            );
            assert_eq!(message.field.is_some(), on_field, "{}", message.wire_name);
            if let Some(field) = message.field {
                assert!(class.field(field).is_some(), "{}", message.wire_name);
            }
        }
    }
    let vm = class("VM").unwrap();
    assert_eq!(vm.message("add_tags").unwrap().field, Some("tags"));
    assert_eq!(
        vm.message("add_to_xenstore_data").unwrap().field,
        Some("xenstore_data")
    );
    assert_eq!(
        vm.message("snapshot").unwrap().param_count_in_xcpng,
        [("8.2", 2)]
    );
    assert_eq!(
        vm.field("memory_static_max").unwrap().column,
        "memory__static_max"
    );
    assert_eq!(vm.field("name_label").unwrap().column, "name__label");
}

#[test]
fn constructors_read_fields_of_their_class() {
    for class in CLASSES {
        for (key, _) in class.constructor_fields {
            assert!(class.field(key).is_some(), "{}.{key}", class.name);
        }
        let constructor = class
            .messages
            .iter()
            .any(|message| message.kind == Kind::Constructor);
        assert_eq!(
            constructor,
            !class.constructor_fields.is_empty(),
            "{}",
            class.name
        );
    }
}

#[test]
fn defaults_are_json_and_trail() {
    for class in CLASSES {
        for field in class.fields {
            if let Some(default) = field.default {
                serde_json::from_str::<serde_json::Value>(default).unwrap();
            }
        }
        for message in class.messages {
            let first = message
                .params
                .iter()
                .position(|param| param.default.is_some());
            let trailing = &message.params[first.unwrap_or(message.params.len())..];
            assert!(
                trailing.iter().all(|param| param.default.is_some()),
                "{}",
                message.wire_name
            );
        }
    }
}

#[test]
fn the_whole_datamodel_is_there() {
    let fields: usize = CLASSES.iter().map(|class| class.fields.len()).sum();
    let messages: usize = CLASSES.iter().map(|class| class.messages.len()).sum();
    assert_eq!((CLASSES.len(), fields, messages), (73, 951, 2258));
    assert_eq!((ENUMS.len(), ERRORS.len()), (75, 634));
    assert_eq!(CLASSES.iter().filter(|class| class.events).count(), 63);
    assert!(class("VMPP").is_some_and(|class| class.state == State::Removed));
    let position = |name| {
        VERSIONS
            .iter()
            .position(|version| version.name == name)
            .unwrap()
    };
    assert!(position("rio") < position("stockholm") && position("stockholm") < position("25.8.0"));
}
