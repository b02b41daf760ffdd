//! Filters: which records the server should send.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Not;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::wire::ToWire;

/// A field of class `T` that filters can compare, with values of type `V`. The fields of a class are
/// constants of its marker: `Vm::POWER_STATE`.
pub struct Field<T, V: ?Sized> {
    column: &'static str,
    kind: PhantomData<fn(&V) -> T>,
}

impl<T, V: ToWire + ?Sized> Field<T, V> {
    /// The field with this column in the server's database, for fields newer than this crate. A column
    /// joins namespaces with two underscores: the field `name_label` is the column `name__label`.
    #[must_use]
    pub const fn column(column: &'static str) -> Self {
        Self {
            column,
            kind: PhantomData,
        }
    }

    /// Matches objects whose field has this value. Text is compared with its case.
    pub fn is(self, value: impl Borrow<V>) -> Filter<T> {
        let text = match value.borrow().to_wire() {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let column = self.column;
        let refused = [column, &text]
            .iter()
            .find(|text| text.contains('"'))
            .map(|text| {
                format!(
                    "a filter cannot compare {column} with text that holds a double quote ({text}): the \
                     server has no escape for it; read all records and compare them here"
                )
            });
        Filter {
            text: format!("(field \"{column}\" = \"{text}\")"),
            refused,
            class: PhantomData,
        }
    }
}

impl<T, V: ?Sized> Clone for Field<T, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, V: ?Sized> Copy for Field<T, V> {}

impl<T, V: ?Sized> fmt::Debug for Field<T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Field").field(&self.column).finish()
    }
}

/// Which objects of class `T` are meant; [`Client::find`](crate::Client::find) reads them.
///
/// Servers compare for equality only. Every part stands in parentheses, because they give `and` and `or`
/// the same precedence, and `not` the lowest.
///
/// ```
/// use xapi_client::api::{Vm, VmPowerState};
///
/// let filter = Vm::POWER_STATE
///     .is(VmPowerState::Running)
///     .and(!Vm::IS_CONTROL_DOMAIN.is(true));
/// assert_eq!(
///     filter.expression()?,
///     r#"((field "power_state" = "Running") and (not (field "is_control_domain" = "true")))"#
/// );
/// assert!(Vm::NAME_LABEL.is("19\" rack").expression().is_err());
/// # Ok::<(), xapi_client::Error>(())
/// ```
#[must_use = "a filter does nothing until it is used to find objects"]
pub struct Filter<T> {
    text: String,
    /// Why the server's grammar cannot express it.
    refused: Option<String>,
    class: PhantomData<fn() -> T>,
}

impl<T> Filter<T> {
    /// Matches what both match.
    pub fn and(self, other: Self) -> Self {
        self.join("and", other)
    }

    /// Matches what one of the two matches, or both.
    pub fn or(self, other: Self) -> Self {
        self.join("or", other)
    }

    /// The text of the filter, for `get_all_where` and `get_all_records_where`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when the server's grammar cannot express it: a value holds a double quote.
    pub fn expression(&self) -> Result<&str> {
        match &self.refused {
            None => Ok(&self.text),
            Some(reason) => Err(Error::Config(reason.clone())),
        }
    }

    fn join(self, operator: &str, other: Self) -> Self {
        Self {
            text: format!("({} {operator} {})", self.text, other.text),
            refused: self.refused.or(other.refused),
            class: PhantomData,
        }
    }
}

impl<T> Not for Filter<T> {
    type Output = Self;

    /// Matches what this does not match.
    fn not(self) -> Self {
        Self {
            text: format!("(not {})", self.text),
            ..self
        }
    }
}

impl<T> Clone for Filter<T> {
    fn clone(&self) -> Self {
        Self {
            text: self.text.clone(),
            refused: self.refused.clone(),
            class: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Filter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.text).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ref;
    use crate::api::{Host, Vdi, Vm, VmPowerState};

    #[test]
    fn values_are_written_as_the_database_holds_them() {
        for (filter, expected) in [
            (
                Vm::NAME_LABEL.is("a (b) 'c'"),
                r#"(field "name__label" = "a (b) 'c'")"#,
            ),
            (
                Vm::IS_A_TEMPLATE.is(false),
                r#"(field "is_a_template" = "false")"#,
            ),
            (
                Vm::MEMORY_STATIC_MAX.is(1 << 31),
                r#"(field "memory__static_max" = "2147483648")"#,
            ),
            (
                Vm::POWER_STATE.is(VmPowerState::Halted),
                r#"(field "power_state" = "Halted")"#,
            ),
            (
                Vm::RESIDENT_ON.is(Ref::<Host>::null()),
                r#"(field "resident_on" = "OpaqueRef:NULL")"#,
            ),
            (
                Field::<Vm, str>::column("x__y").is(String::new()),
                r#"(field "x__y" = "")"#,
            ),
        ] {
            assert_eq!(filter.expression().unwrap(), expected);
        }
        assert_eq!(
            Vdi::TYPE
                .is(crate::api::VdiType::User)
                .expression()
                .unwrap(),
            r#"(field "type" = "user")"#
        );
    }

    #[test]
    fn every_part_stands_in_parentheses() {
        let a = || Vm::NAME_LABEL.is("a");
        let b = || Vm::NAME_LABEL.is("b");
        assert_eq!(
            (!a()).and(b()).or(!(a().or(b()))).expression().unwrap(),
            "(((not (field \"name__label\" = \"a\")) and (field \"name__label\" = \"b\")) or \
             (not ((field \"name__label\" = \"a\") or (field \"name__label\" = \"b\"))))"
        );
    }

    #[test]
    fn what_the_grammar_cannot_express_is_refused_at_any_depth() {
        let quoted = || Vm::NAME_LABEL.is(r#"x" or true or field "uuid" = "#);
        let plain = || Vm::NAME_LABEL.is("a");
        for filter in [
            quoted(),
            !quoted(),
            plain().and(quoted()),
            quoted().or(plain()),
            Field::<Vm, bool>::column("a\"b").is(true),
        ] {
            let error = filter.expression().unwrap_err();
            assert!(error.to_string().contains("double quote"), "{error}");
        }
    }
}
