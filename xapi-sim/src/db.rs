//! The database: class → reference → row, with the bookkeeping that events need.
//!
//! Columns, their types and their defaults come from the tables of the datamodel. Two-way
//! relations are kept here: whoever sets `VBD.VM` moves the reference between `VM.VBDs` of the
//! old and the new VM, and both sides count as changed.

mod release;
mod restore;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use xapi_client::meta::{self, Field};

pub(crate) use self::release::RELEASES;
pub use self::release::{Release, UnknownRelease};
pub(crate) use self::restore::Restored;
use self::table::{Deleted, owns_relation, storable};
pub(crate) use self::table::{Row, Snapshot, Table, typed_default, zero};
use crate::failure::Failure;
use crate::journal::Journal;
use crate::value::{NULL_REF, Value};

/// How many deletions a table remembers, and how many it keeps when it forgets. A client that
/// polls too slowly misses the rest, as with a real server.
const DELETIONS_MAX: usize = 512;
const DELETIONS_KEPT: usize = 257;

/// All tables, and the counter of changes.
#[derive(Debug)]
pub(crate) struct Db {
    tables: BTreeMap<&'static str, Table>,
    generation: i64,
    release: Release,
    pub(crate) journal: Journal,
}

impl Db {
    pub(crate) fn new(release: Release) -> Self {
        let tables = meta::CLASSES
            .iter()
            .filter(|class| release.has(class.absent_in_xcpng))
            .map(|class| (class.name, Table::new(class, release)))
            .collect();
        Db {
            tables,
            generation: 0,
            release,
            journal: Journal::default(),
        }
    }

    pub(crate) fn release(&self) -> Release {
        self.release
    }

    /// The number of the newest change.
    pub(crate) fn generation(&self) -> i64 {
        self.generation
    }

    fn next_generation(&mut self) -> i64 {
        self.generation += 1;
        self.generation
    }

    /// The tables in the order of their names.
    pub(crate) fn tables(&self) -> impl DoubleEndedIterator<Item = &Table> {
        self.tables.values()
    }

    pub(crate) fn table(&self, class: &str) -> Option<&Table> {
        self.tables.get(class)
    }

    pub(crate) fn exists(&self, class: &str, reference: &str) -> bool {
        self.table(class)
            .is_some_and(|table| table.rows.contains_key(reference))
    }

    /// Fails with `HANDLE_INVALID` unless the object exists.
    pub(crate) fn require(&self, class: &str, reference: &str) -> Result<(), Failure> {
        if self.exists(class, reference) {
            Ok(())
        } else {
            Err(Failure::handle_invalid(class, reference))
        }
    }

    /// The references of a class, in the order in which the server lists them: descending.
    pub(crate) fn references(&self, class: &str) -> Vec<String> {
        self.table(class)
            .map_or_else(Vec::new, |table| table.rows.keys().rev().cloned().collect())
    }

    pub(crate) fn by_uuid(&self, class: &str, uuid: &str) -> Option<String> {
        let table = self.table(class)?;
        let column = *table.columns.get("uuid")?;
        let found = table
            .rows
            .iter()
            .find(|(_, row)| row.fields[column].as_str() == Some(uuid));
        found.map(|(reference, _)| reference.clone())
    }

    /// Whether a reference is that of an object with this uuid or name.
    pub(crate) fn is_called(&self, reference: &str, called: &str) -> bool {
        self.tables
            .values()
            .filter_map(|table| Some((table, table.rows.get(reference)?)))
            .any(|(table, row)| {
                ["uuid", "name_label"].iter().any(|field| {
                    let column = table.columns.get(field);
                    column.is_some_and(|&at| row.fields[at].as_str() == Some(called))
                })
            })
    }

    /// A field of an object.
    pub(crate) fn get(&self, class: &str, reference: &str, field: &str) -> Result<&Value, Failure> {
        let invalid = || Failure::handle_invalid(class, reference);
        let table = self.table(class).ok_or_else(invalid)?;
        let row = table.rows.get(reference).ok_or_else(invalid)?;
        let column = table
            .columns
            .get(field)
            .ok_or_else(|| Failure::new("INTERNAL_ERROR", ["missing field", field, ""]))?;
        Ok(&row.fields[*column])
    }

    /// A field of text, a reference, an enum or a point in time.
    pub(crate) fn text(
        &self,
        class: &str,
        reference: &str,
        field: &str,
    ) -> Result<String, Failure> {
        self.get(class, reference, field)
            .map(|value| value.as_str().unwrap_or_default().to_owned())
    }

    pub(crate) fn int(&self, class: &str, reference: &str, field: &str) -> Result<i64, Failure> {
        self.get(class, reference, field)
            .map(|value| value.as_int().unwrap_or_default())
    }

    pub(crate) fn flag(&self, class: &str, reference: &str, field: &str) -> Result<bool, Failure> {
        self.get(class, reference, field)
            .map(|value| value.as_bool().unwrap_or_default())
    }

    /// The texts of a set field.
    pub(crate) fn list(
        &self,
        class: &str,
        reference: &str,
        field: &str,
    ) -> Result<Vec<String>, Failure> {
        let items = self.get(class, reference, field)?.items();
        Ok(items
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect())
    }

    /// The text under a key of a map field.
    pub(crate) fn key(
        &self,
        class: &str,
        reference: &str,
        field: &str,
        key: &str,
    ) -> Result<Option<String>, Failure> {
        let map = self.get(class, reference, field)?;
        Ok(map.get(key).and_then(Value::as_str).map(str::to_owned))
    }

    /// Everything that clients see of an object.
    pub(crate) fn record(&self, class: &str, reference: &str) -> Result<Value, Failure> {
        let invalid = || Failure::handle_invalid(class, reference);
        let table = self.table(class).ok_or_else(invalid)?;
        Ok(table.record(table.rows.get(reference).ok_or_else(invalid)?))
    }

    /// Everything that the database holds of an object, as one text. [`dbtext`] reads it.
    pub(crate) fn dump(&self, class: &str, reference: &str) -> Result<String, Failure> {
        let invalid = || Failure::handle_invalid(class, reference);
        let table = self.table(class).ok_or_else(invalid)?;
        let row = table.rows.get(reference).ok_or_else(invalid)?;
        Ok(table.dump(reference, row))
    }

    /// Adds an object. Fields that are not given get the default of the datamodel, else the zero
    /// of their type.
    pub(crate) fn create(
        &mut self,
        class: &'static str,
        reference: &str,
        values: Vec<(&str, Value)>,
    ) -> Result<(), Failure> {
        let generation = self.next_generation();
        let Some(table) = self.tables.get_mut(class) else {
            return Err(Failure::handle_invalid(class, reference));
        };
        let mut fields = table.defaults.clone();
        for (name, value) in values {
            storable(&value)?;
            if let Some(&column) = table.columns.get(name) {
                fields[column] = value;
            }
        }
        let related: Vec<(&'static Field, Value)> = table
            .class
            .fields
            .iter()
            .zip(&table.owning)
            .zip(&fields)
            .filter(|((_, owning), _)| **owning)
            .map(|((field, _), value)| (field, value.clone()))
            .collect();
        let row = Row {
            fields: fields.into(),
            created: generation,
            modified: generation,
        };
        table.rows.insert(reference.to_owned(), row);
        self.note("add", class, reference);
        for (field, value) in related {
            self.relate(field, reference, &zero(field.ty), &value, true);
        }
        Ok(())
    }

    /// Writes a field. Writing the value that is there already changes nothing, not even the
    /// generation.
    pub(crate) fn set(
        &mut self,
        class: &str,
        reference: &str,
        field: &str,
        value: impl Into<Value>,
    ) -> Result<(), Failure> {
        let value = value.into();
        storable(&value)?;
        let old = self.get(class, reference, field)?.clone();
        if old == value {
            return Ok(());
        }
        let Some(descriptor) = self.table(class).and_then(|table| table.class.field(field)) else {
            return Ok(());
        };
        self.write(class, reference, field, value.clone());
        if owns_relation(descriptor) {
            self.relate(descriptor, reference, &old, &value, false);
        }
        Ok(())
    }

    /// Removes an object and its references in the relations of others. Plain references to it
    /// stay where they are, dangling, as with a real server.
    pub(crate) fn destroy(&mut self, class: &str, reference: &str) -> Result<(), Failure> {
        self.require(class, reference)?;
        let related: Vec<(&'static Field, Value)> = self
            .table(class)
            .into_iter()
            .flat_map(|table| table.class.fields)
            .filter(|field| owns_relation(field))
            .filter_map(|field| {
                self.get(class, reference, field.name)
                    .ok()
                    .map(|value| (field, value.clone()))
            })
            .collect();
        for (field, value) in related {
            self.relate(field, reference, &value, &zero(field.ty), false);
        }
        let generation = self.next_generation();
        if let Some(table) = self.tables.get_mut(class)
            && let Some(row) = table.rows.remove(reference)
        {
            table.deleted.push_front(Deleted {
                reference: reference.to_owned(),
                created: row.created,
                deleted: generation,
            });
            if table.deleted.len() > DELETIONS_MAX {
                table.deleted.truncate(DELETIONS_KEPT);
            }
        }
        self.note("del", class, reference);
        Ok(())
    }

    /// Marks an object as changed. Gives the number of the change before this one.
    pub(crate) fn touch(&mut self, class: &str, reference: &str) -> Result<i64, Failure> {
        self.require(class, reference)?;
        let before = self.generation;
        let generation = self.next_generation();
        if let Some(row) = self
            .tables
            .get_mut(class)
            .and_then(|table| table.rows.get_mut(reference))
        {
            row.modified = generation;
        }
        self.note("mod", class, reference);
        Ok(before)
    }

    fn write(&mut self, class: &str, reference: &str, field: &str, value: Value) {
        let generation = self.next_generation();
        if let Some(table) = self.tables.get_mut(class)
            && let Some(&column) = table.columns.get(field)
            && let Some(row) = table.rows.get_mut(reference)
        {
            Arc::make_mut(&mut row.fields)[column] = value;
            row.modified = generation;
        }
        self.note("mod", class, reference);
    }

    /// Tells the journal of a change, with the record as it is now.
    fn note(&mut self, operation: &'static str, class: &str, reference: &str) {
        if !self.journal.is_wanted() {
            return;
        }
        let Some(table) = self.tables.get(class).filter(|table| table.class.events) else {
            return;
        };
        let record = table.rows.get(reference).map(|row| table.record(row));
        let name = table.class.event_name;
        self.journal.add(operation, name, reference, record);
    }

    /// Keeps the other side of a relation in step when `field` of `reference` changes. A fresh
    /// object is nobody's member yet, so long sets need not be searched for it.
    fn relate(&mut self, field: &Field, reference: &str, old: &Value, new: &Value, fresh: bool) {
        let Some((class, other)) = field.relation else {
            return;
        };
        let (old, new) = (targets(old), targets(new));
        let is_it = |member: &Value| member.as_str() == Some(reference);
        for target in old.iter().filter(|target| !new.contains(target)) {
            self.edit(class, target, other, |members| {
                let before = members.len();
                members.retain(|member| !is_it(member));
                members.len() < before
            });
        }
        for target in new.iter().filter(|target| !old.contains(target)) {
            self.edit(class, target, other, |members| {
                let missing = fresh || !members.iter().any(is_it);
                if missing {
                    // The newest comes first, as in the server's own sets.
                    members.insert(0, Value::from(reference));
                }
                missing
            });
        }
    }

    /// Changes a set in its place, since sets can be long. The function tells whether it did.
    fn edit(
        &mut self,
        class: &str,
        reference: &str,
        field: &str,
        change: impl FnOnce(&mut Vec<Value>) -> bool,
    ) {
        let generation = self.generation + 1;
        if let Some(table) = self.tables.get_mut(class)
            && let Some(&column) = table.columns.get(field)
            && let Some(row) = table.rows.get_mut(reference)
            && let Value::Array(members) = &mut Arc::make_mut(&mut row.fields)[column]
            && change(members)
        {
            row.modified = generation;
            self.generation = generation;
            self.note("mod", class, reference);
        }
    }
}

fn targets(value: &Value) -> Vec<String> {
    match value {
        Value::String(reference) if reference != NULL_REF => vec![reference.clone()],
        Value::Array(items) => items
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::value::EPOCH;

    fn world() -> Db {
        let mut db = Db::new(Release::Newest);
        db.create("VM", "vm1", vec![("name_label", Value::from("one"))])
            .unwrap();
        db.create("VM", "vm2", vec![]).unwrap();
        db.create("VBD", "vbd", vec![("VM", Value::from("vm1"))])
            .unwrap();
        db
    }

    #[test]
    fn relations_follow_the_single_side() {
        let mut db = world();
        assert_eq!(db.list("VM", "vm1", "VBDs").unwrap(), ["vbd"]);
        db.set("VBD", "vbd", "VM", "vm2").unwrap();
        assert!(db.list("VM", "vm1", "VBDs").unwrap().is_empty());
        assert_eq!(db.list("VM", "vm2", "VBDs").unwrap(), ["vbd"]);
        db.create("VBD", "later", vec![("VM", Value::from("vm2"))])
            .unwrap();
        assert_eq!(db.list("VM", "vm2", "VBDs").unwrap(), ["later", "vbd"]);
        db.destroy("VBD", "vbd").unwrap();
        assert_eq!(db.list("VM", "vm2", "VBDs").unwrap(), ["later"]);
        db.destroy("VM", "vm2").unwrap();
        assert_eq!(
            db.text("VBD", "later", "VM").unwrap(),
            "vm2",
            "plain references dangle"
        );
    }

    #[test]
    fn only_changes_count() {
        let mut db = world();
        let before = db.generation();
        db.set("VM", "vm1", "name_label", "one").unwrap();
        assert_eq!(db.generation(), before);
        db.set("VM", "vm1", "name_label", "two").unwrap();
        assert_eq!(db.generation(), before + 1);
        assert_eq!(db.touch("VM", "vm1").unwrap(), before + 1);
    }

    #[test]
    fn deletions_are_forgotten_as_by_the_server() {
        let mut db = Db::new(Release::Newest);
        for index in 0..600 {
            db.create("task", &format!("t{index}"), vec![]).unwrap();
        }
        for index in 0..600 {
            db.destroy("task", &format!("t{index}")).unwrap();
        }
        // 512 fill the log; the next one trims it to 257, and 87 more follow.
        assert_eq!(db.table("task").unwrap().deleted.len(), 257 + 87);
    }

    #[test]
    fn defaults_come_from_the_datamodel() {
        let mut db = Db::new(Release::Newest);
        db.create("network", "n", vec![]).unwrap();
        assert_eq!(db.int("network", "n", "MTU").unwrap(), 1500);
        assert!(db.flag("network", "n", "managed").unwrap());
        db.create("VM", "v", vec![]).unwrap();
        assert_eq!(db.text("VM", "v", "affinity").unwrap(), NULL_REF);
        assert_eq!(db.text("VM", "v", "snapshot_time").unwrap(), EPOCH);
        let record = db.record("VM", "v").unwrap();
        assert_eq!(
            record.get("HVM_shadow_multiplier"),
            Some(&Value::Float(1.0))
        );
        assert!(
            record.get("recommended_guidances").is_none(),
            "internal fields stay inside"
        );
    }

    #[test]
    fn what_cannot_be_stored() {
        let mut db = world();
        for (value, exception) in [
            (Value::from("\u{1}"), "Db_exn.Invalid_value"),
            (Value::map([("", "x")]), "Db_exn.Empty_key_in_map"),
        ] {
            let field = if matches!(value, Value::Struct(_)) {
                "other_config"
            } else {
                "name_label"
            };
            assert_eq!(
                db.set("VM", "vm1", field, value),
                Err(Failure::internal(exception))
            );
        }
        db.set("VM", "vm1", "name_label", "tab\tnew\nline \u{1f600}")
            .unwrap();
    }
}
