//! A database that takes the place of another.

use super::{Db, Row};
use crate::dbtext;

/// What a dump of a database holds.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    pub(crate) generation: i64,
    pub(crate) rows: Vec<RestoredRow>,
}

#[derive(Debug)]
pub(crate) struct RestoredRow {
    pub(crate) table: String,
    /// Names and texts of the database's own, with those of the row itself: `ref` and the numbers of
    /// the changes that made it and changed it.
    pub(crate) columns: Vec<(String, String)>,
}

impl RestoredRow {
    fn column(&self, name: &str) -> Option<&str> {
        let found = self.columns.iter().find(|(known, _)| known == name);
        found.map(|(_, text)| text.as_str())
    }
}

impl Restored {
    /// Calls an object differently wherever it is named.
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        let rows = self.rows.iter_mut();
        for (_, text) in rows.flat_map(|row| &mut row.columns) {
            if text.contains(from) {
                *text = text.replace(from, to);
            }
        }
    }

    pub(crate) fn add(&mut self, table: &str, columns: Vec<(String, String)>) {
        self.rows.push(RestoredRow {
            table: table.to_owned(),
            columns,
        });
    }
}

impl Db {
    /// Takes the rows of a dump in place of those that outlive a restart. What the dump lacks has its
    /// default, and what no table knows is left out. The generation goes back with it.
    pub(crate) fn replace(&mut self, restored: &Restored) {
        for table in self.tables.values_mut().filter(|table| table.class.persist) {
            table.rows.clear();
            table.deleted.clear();
            for row in restored
                .rows
                .iter()
                .filter(|row| row.table == table.class.name)
            {
                let Some(reference) = row.column("ref") else {
                    continue;
                };
                let number = |name| row.column(name).and_then(|text| text.parse().ok());
                let fields = table.class.fields.iter().zip(&table.defaults);
                let fields = fields.map(|(field, default)| {
                    let text = row.column(field.column).filter(|_| field.persist);
                    let read = text.and_then(|text| dbtext::read(field.ty, text));
                    read.unwrap_or_else(|| default.clone())
                });
                let row = Row {
                    fields: fields.collect(),
                    created: number("__ctime").unwrap_or_default(),
                    modified: number("__mtime").unwrap_or_default(),
                };
                table.rows.insert(reference.to_owned(), row);
            }
        }
        self.generation = restored.generation;
    }
}
