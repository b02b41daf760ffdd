//! The messages that every class has: getters, setters, lookups and record lists, all of them
//! straight from the tables of the datamodel.

use xapi_client::meta::{Class, Field, Kind, Message, Type};

use crate::check;
use crate::db::{self, Db};
use crate::failure::{Failure, Reply};
use crate::filter::Filter;
use crate::json;
use crate::value::Value;

/// Answers an implicit message; `None` for one that only a handler can answer. `args` are checked
/// and without the session.
pub(crate) fn answer(
    db: &mut Db,
    class: &'static Class,
    message: &'static Message,
    args: &[Value],
) -> Option<Reply> {
    let text = |index: usize| args.get(index).and_then(Value::as_str).unwrap_or_default();
    let field = message.field.and_then(|name| class.field(name));
    Some(match (message.kind, field) {
        (Kind::FieldGet, Some(field)) => db.get(class.name, text(0), field.name).cloned(),
        (Kind::FieldSet, Some(field)) => {
            let value = args.get(1).cloned().unwrap_or(Value::Nil);
            db.set(class.name, text(0), field.name, value)
                .map(|()| Value::void())
        }
        (Kind::FieldAdd, Some(field)) => add(db, class, field, text(0), &args[1..]),
        (Kind::FieldRemove, Some(field)) => remove(db, class, field, text(0), args.get(1)),
        (Kind::GetByUuid, _) => by_uuid(db, class, text(0)).map(Value::String),
        (Kind::GetByNameLabel, _) => Ok(by_name_label(db, class, text(0))),
        (Kind::GetRecord, _) => db.record(class.name, text(0)),
        (Kind::GetAll, _) => Ok(Value::strings(db.references(class.name))),
        (Kind::GetAllRecords, _) => Ok(records(db, class, db.references(class.name))),
        (Kind::GetAllWhere, _) => select(db, class, text(0)).map(Value::strings),
        (Kind::GetAllRecordsWhere, _) => {
            select(db, class, text(0)).map(|references| records(db, class, references))
        }
        _ => return None,
    })
}

/// Adds an element to a set field or a pair to a map field.
pub(crate) fn add(
    db: &mut Db,
    class: &'static Class,
    field: &'static Field,
    reference: &str,
    args: &[Value],
) -> Reply {
    let current = db.get(class.name, reference, field.name)?.clone();
    let value = match (field.ty, current, args) {
        (Type::Map(..), Value::Struct(mut members), [key, value]) => {
            let key = key_text(key);
            if members.iter().any(|(existing, _)| *existing == key) {
                let params = [class.name, field.column, reference, &key];
                return Err(Failure::new("MAP_DUPLICATE_KEY", params));
            }
            members.insert(0, (key, value.clone()));
            Value::Struct(members)
        }
        (_, Value::Array(mut items), [item]) => {
            if items.contains(item) {
                return Ok(Value::void());
            }
            items.insert(0, item.clone());
            Value::Array(items)
        }
        _ => return Ok(Value::void()),
    };
    db.set(class.name, reference, field.name, value)
        .map(|()| Value::void())
}

/// Removes all copies of an element from a set field, or a key from a map field. Removing what
/// is not there is no failure.
pub(crate) fn remove(
    db: &mut Db,
    class: &'static Class,
    field: &'static Field,
    reference: &str,
    what: Option<&Value>,
) -> Reply {
    let what = what.cloned().unwrap_or(Value::Nil);
    let value = match db.get(class.name, reference, field.name)?.clone() {
        Value::Struct(members) => {
            let key = key_text(&what);
            Value::Struct(
                members
                    .into_iter()
                    .filter(|(name, _)| *name != key)
                    .collect(),
            )
        }
        Value::Array(items) => {
            Value::Array(items.into_iter().filter(|item| *item != what).collect())
        }
        other => other,
    };
    db.set(class.name, reference, field.name, value)
        .map(|()| Value::void())
}

fn key_text(key: &Value) -> String {
    match key {
        Value::Int(number) => number.to_string(),
        other => other.as_str().unwrap_or_default().to_owned(),
    }
}

fn by_uuid(db: &Db, class: &Class, uuid: &str) -> Result<String, Failure> {
    db.by_uuid(class.name, uuid)
        .ok_or_else(|| Failure::uuid_invalid(class.name, uuid))
}

fn by_name_label(db: &Db, class: &Class, label: &str) -> Value {
    let named = |reference: &String| {
        let found = db.get(class.name, reference, "name_label");
        found.is_ok_and(|value| value.as_str() == Some(label))
    };
    Value::strings(db.references(class.name).into_iter().filter(named))
}

fn records(db: &Db, class: &Class, references: Vec<String>) -> Value {
    Value::Struct(
        references
            .into_iter()
            .filter_map(|reference| {
                let record = db.record(class.name, &reference).ok()?;
                Some((reference, record))
            })
            .collect(),
    )
}

fn select(db: &Db, class: &Class, expression: &str) -> Result<Vec<String>, Failure> {
    let filter = Filter::parse(expression)?;
    let Some(table) = db.table(class.name) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for (reference, row) in table.rows.iter().rev() {
        if filter.matches(&|column| table.column_text(reference, row, column))? {
            found.push(reference.clone());
        }
    }
    Ok(found)
}

/// Reads the struct that a constructor takes: required keys must be there, unknown ones are
/// ignored, the rest get the defaults of the datamodel. Gives the fields in the datamodel's order.
pub(crate) fn constructor_fields(
    class: &'static Class,
    args: &[Value],
) -> Result<Vec<(&'static str, Value)>, Failure> {
    let Some(given @ Value::Struct(_)) = args.first() else {
        return Err(Failure::internal_failure("bad __structure"));
    };
    let mut fields = Vec::new();
    for &(name, required) in class.constructor_fields {
        let Some(field) = class.field(name) else {
            continue;
        };
        let value = match given.get(name) {
            Some(value) => check::convert(field.ty, value.clone())?,
            None if required => {
                let exception = format!("Server_helpers.Dispatcher_FieldNotFound(\"{name}\")");
                return Err(Failure::internal(exception));
            }
            None => match field.default.and_then(|default| json::parse(default).ok()) {
                Some(default) => db::typed_default(field.ty, default),
                None => db::zero(field.ty),
            },
        };
        fields.push((name, value));
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xapi_client::meta;

    fn call(db: &mut Db, wire_name: &str, args: &[Value]) -> Reply {
        let (class, name) = wire_name.split_once('.').unwrap();
        let class = meta::class(class).unwrap();
        answer(db, class, class.message(name).unwrap(), args).unwrap()
    }

    #[test]
    fn maps_and_sets() {
        let mut db = Db::new(db::Release::Newest);
        db.create("VM", "vm", vec![("uuid", Value::from("u"))])
            .unwrap();
        let vm = Value::from("vm");
        // other_config of a VM has handlers of its own; xenstore_data does not.
        let pair = [vm.clone(), Value::from("k"), Value::from("v")];
        call(&mut db, "VM.add_to_HVM_boot_params", &pair).unwrap();
        assert_eq!(
            call(&mut db, "VM.add_to_HVM_boot_params", &pair),
            Err(Failure::new(
                "MAP_DUPLICATE_KEY",
                ["VM", "HVM__boot_params", "vm", "k"]
            ))
        );
        call(
            &mut db,
            "VM.remove_from_HVM_boot_params",
            &[vm.clone(), Value::from("gone")],
        )
        .unwrap();
        call(
            &mut db,
            "VM.set_tags",
            &[vm.clone(), Value::strings(["a", "b", "a"])],
        )
        .unwrap();
        call(&mut db, "VM.add_tags", &[vm.clone(), Value::from("a")]).unwrap();
        assert_eq!(
            call(&mut db, "VM.get_tags", std::slice::from_ref(&vm)),
            Ok(Value::strings(["a", "b", "a"]))
        );
        call(&mut db, "VM.remove_tags", &[vm.clone(), Value::from("a")]).unwrap();
        assert_eq!(
            call(&mut db, "VM.get_tags", std::slice::from_ref(&vm)),
            Ok(Value::strings(["b"]))
        );
        call(&mut db, "VM.add_tags", &[vm.clone(), Value::from("new")]).unwrap();
        assert_eq!(
            call(&mut db, "VM.get_tags", &[vm]),
            Ok(Value::strings(["new", "b"]))
        );
    }

    #[test]
    fn lookups() {
        let mut db = Db::new(db::Release::Newest);
        for name in ["a", "b"] {
            let fields = vec![
                ("uuid", Value::from(name)),
                ("name_label", Value::from("same")),
            ];
            db.create("VM", &format!("OpaqueRef:{name}"), fields)
                .unwrap();
        }
        let all = Value::strings(["OpaqueRef:b", "OpaqueRef:a"]);
        assert_eq!(call(&mut db, "VM.get_all", &[]), Ok(all.clone()));
        assert_eq!(
            call(&mut db, "VM.get_by_name_label", &[Value::from("same")]),
            Ok(all.clone())
        );
        assert_eq!(
            call(&mut db, "VM.get_by_uuid", &[Value::from("nope")]),
            Err(Failure::new("UUID_INVALID", ["VM", "nope"]))
        );
        assert_eq!(
            call(&mut db, "VM.get_record", &[Value::from("OpaqueRef:nope")]),
            Err(Failure::new("HANDLE_INVALID", ["VM", "OpaqueRef:nope"]))
        );
        let expression =
            Value::from("field \"name__label\" = \"same\" and field \"tags\" = \"()\"");
        assert_eq!(call(&mut db, "VM.get_all_where", &[expression]), Ok(all));
        let one = Value::from("field \"_ref\" = \"OpaqueRef:a\"");
        let records = call(&mut db, "VM.get_all_records_where", &[one]).unwrap();
        assert_eq!(records.members().len(), 1);
    }

    #[test]
    fn constructors() {
        let class = meta::class("VIF").unwrap();
        let short = Value::map([("device", "1"), ("network", "n"), ("VM", "v")]);
        assert_eq!(
            constructor_fields(class, &[short]),
            Err(Failure::internal(
                "Server_helpers.Dispatcher_FieldNotFound(\"MAC\")"
            ))
        );
        assert_eq!(
            constructor_fields(class, &[Value::from("x")]),
            Err(Failure::internal("Failure(\"bad __structure\")"))
        );
    }
}
