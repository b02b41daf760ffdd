//! The rows of a class, and what their columns begin with.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use xapi_client::meta::{self, Class, Field, Type};

use super::Release;
use crate::dbtext;
use crate::failure::Failure;
use crate::json;
use crate::value::{EPOCH, Value};

/// The rows of a class.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) class: &'static Class,
    release: Release,
    pub(super) columns: HashMap<&'static str, usize>,
    /// For each field, whether it stays inside the server.
    hidden: Arc<[bool]>,
    /// For each field, what it is when nobody says.
    pub(super) defaults: Vec<Value>,
    /// For each field, whether writing it has to write the other side of a relation.
    pub(super) owning: Vec<bool>,
    pub(crate) rows: BTreeMap<String, Row>,
    /// The newest first.
    pub(crate) deleted: VecDeque<Deleted>,
}

/// An object.
#[derive(Debug)]
pub(crate) struct Row {
    /// Shared with those who have taken a [`Snapshot`]; who writes then writes a copy.
    pub(super) fields: Arc<[Value]>,
    pub(crate) created: i64,
    pub(crate) modified: i64,
}

/// What a row was at some time. Taking one is cheap; its record can be made without the database.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    class: &'static Class,
    hidden: Arc<[bool]>,
    fields: Arc<[Value]>,
}

impl Snapshot {
    /// Everything that clients see of the row.
    pub(crate) fn record(&self) -> Value {
        let fields = self.class.fields.iter();
        let fields = fields.zip(self.fields.iter()).zip(self.hidden.iter());
        Value::Struct(
            fields
                .filter(|(_, hidden)| !**hidden)
                .map(|((field, value), _)| (field.name.to_owned(), value.clone()))
                .collect(),
        )
    }
}

/// What is remembered of a deleted object.
#[derive(Debug)]
pub(crate) struct Deleted {
    pub(crate) reference: String,
    pub(crate) created: i64,
    pub(crate) deleted: i64,
}

impl Table {
    pub(super) fn new(class: &'static Class, release: Release) -> Self {
        let columns = class.fields.iter().enumerate();
        let hidden = |field: &Field| field.internal || !release.has(field.absent_in_xcpng);
        Table {
            class,
            release,
            columns: columns.map(|(at, field)| (field.name, at)).collect(),
            hidden: class.fields.iter().map(hidden).collect(),
            defaults: class.fields.iter().map(default_value).collect(),
            owning: class.fields.iter().map(owns_relation).collect(),
            rows: BTreeMap::new(),
            deleted: VecDeque::new(),
        }
    }

    /// What a row is now.
    pub(crate) fn snapshot(&self, row: &Row) -> Snapshot {
        Snapshot {
            class: self.class,
            hidden: Arc::clone(&self.hidden),
            fields: Arc::clone(&row.fields),
        }
    }

    /// Everything that clients see of a row.
    pub(crate) fn record(&self, row: &Row) -> Value {
        self.snapshot(row).record()
    }

    /// The columns of a row, internal fields included, as the database writes them.
    pub(crate) fn columns<'t>(
        &'t self,
        row: &'t Row,
    ) -> impl Iterator<Item = (&'static Field, String)> + 't {
        let fields = self.class.fields.iter().zip(row.fields.iter());
        fields
            .filter(|(field, _)| self.release.has(field.absent_in_xcpng))
            .map(|(field, value)| (field, dbtext::write(value)))
    }

    /// The whole row, internal fields included, as one text of the database. The last column comes
    /// first.
    pub(crate) fn dump(&self, reference: &str, row: &Row) -> String {
        let mut columns: Vec<(String, String)> = self
            .columns(row)
            .map(|(field, text)| (field.column.to_owned(), text))
            .collect();
        columns.push(("_ref".to_owned(), reference.to_owned()));
        columns.sort_unstable_by(|a, b| b.cmp(a));
        dbtext::write_pairs(columns)
    }

    /// The text of a column in the database's own form, for filters. Columns are named with
    /// double underscores; `_ref` is the reference.
    pub(crate) fn column_text(&self, reference: &str, row: &Row, column: &str) -> Option<String> {
        if column == "_ref" {
            return Some(reference.to_owned());
        }
        let at =
            self.class.fields.iter().position(|field| {
                field.column == column && self.release.has(field.absent_in_xcpng)
            })?;
        Some(dbtext::write(&row.fields[at]))
    }
}

/// Whether writing this field has to write the other side: the single reference of a
/// one-to-many relation, or either set of a many-to-many one.
pub(super) fn owns_relation(field: &Field) -> bool {
    let Some((class, other)) = field.relation else {
        return false;
    };
    meta::class(class)
        .and_then(|class| class.field(other))
        .is_some_and(|field| matches!(field.ty, Type::Set(_)))
}

fn default_value(field: &Field) -> Value {
    let Some(default) = field.default else {
        return zero(field.ty);
    };
    match json::parse(default) {
        Ok(value) => typed_default(field.ty, value),
        Err(_) => zero(field.ty),
    }
}

/// A default as the datamodel's JSON has it, in the type of its field.
pub(crate) fn typed_default(ty: Type, value: Value) -> Value {
    match (ty, value) {
        (Type::DateTime, Value::String(text)) => Value::DateTime(if text.is_empty() {
            EPOCH.to_owned()
        } else {
            text
        }),
        (Type::Float, Value::Int(number)) => Value::Float(number as f64),
        (_, value) => value,
    }
}

/// The value of a field that nobody has set.
pub(crate) fn zero(ty: Type) -> Value {
    match ty {
        Type::Void | Type::String | Type::SecretString => Value::void(),
        Type::Int => Value::Int(0),
        Type::Float => Value::Float(0.0),
        Type::Bool => Value::Bool(false),
        Type::DateTime => Value::DateTime(EPOCH.to_owned()),
        Type::Enum(name) => {
            let first = meta::ENUMS
                .iter()
                .find(|entry| entry.name == name)
                .and_then(|entry| entry.values.first());
            Value::string(*first.unwrap_or(&""))
        }
        Type::Ref(_) => Value::null_ref(),
        Type::Set(_) => Value::Array(Vec::new()),
        Type::Map(..) | Type::Record(_) | Type::EventBatch => Value::Struct(Vec::new()),
        Type::Option(_) => Value::Nil,
    }
}

/// Refuses what the database cannot store.
pub(super) fn storable(value: &Value) -> Result<(), Failure> {
    match value {
        Value::String(text) => {
            if text
                .chars()
                .any(|c| c < ' ' && !matches!(c, '\t' | '\n' | '\r'))
            {
                return Err(Failure::internal("Db_exn.Invalid_value"));
            }
            Ok(())
        }
        Value::Array(items) => items.iter().try_for_each(storable),
        Value::Struct(members) => members.iter().try_for_each(|(key, value)| {
            if key.is_empty() {
                return Err(Failure::internal("Db_exn.Empty_key_in_map"));
            }
            storable(&Value::String(key.clone()))?;
            storable(value)
        }),
        _ => Ok(()),
    }
}
