//! XML-RPC values as serde sees them.
//!
//! Typed results are decoded straight from the XML, without a tree between.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{CowStrDeserializer, MapDeserializer};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess,
    SeqAccess, Visitor,
};
use serde_json::Value;

use super::parser::{Content, Parser, Tag, XmlRpcError};

/// A `<value>` that was opened.
pub(super) struct Element<'a, 'de> {
    parser: &'a mut Parser<'de>,
    /// What stands within, if that was looked at already.
    content: Option<Content<'de>>,
}

impl<'a, 'de> Element<'a, 'de> {
    /// The value that begins here.
    pub(super) fn next(parser: &'a mut Parser<'de>) -> Result<Self, XmlRpcError> {
        parser.open(Tag::Value)?;
        Ok(Self::opened(parser))
    }

    fn opened(parser: &'a mut Parser<'de>) -> Self {
        Self {
            parser,
            content: None,
        }
    }

    fn content(&mut self) -> Result<Content<'de>, XmlRpcError> {
        match self.content.take() {
            Some(content) => Ok(content),
            None => self.parser.content(),
        }
    }
}

impl Error for XmlRpcError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Custom(message.to_string())
    }
}

impl<'de> Deserializer<'de> for Element<'_, 'de> {
    type Error = XmlRpcError;

    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, XmlRpcError> {
        match self.content()? {
            Content::Text(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Content::Text(Cow::Owned(text)) => visitor.visit_string(text),
            Content::Int(number) => visitor.visit_i64(number),
            Content::Double(number) if number.is_finite() => visitor.visit_f64(number),
            // As JSON has them: untyped values hold them as text.
            Content::Double(number) if number.is_nan() => visitor.visit_borrowed_str("NaN"),
            Content::Double(number) if number > 0.0 => visitor.visit_borrowed_str("Infinity"),
            Content::Double(_) => visitor.visit_borrowed_str("-Infinity"),
            Content::Bool(value) => visitor.visit_bool(value),
            Content::Nil => visitor.visit_unit(),
            Content::Array => {
                let mut items = Items(Rest::new(self.parser));
                let value = visitor.visit_seq(&mut items)?;
                items.0.end(|parser| parser.next_item())?;
                Ok(value)
            }
            Content::Struct => {
                let mut members = Members(Rest::new(self.parser));
                let value = visitor.visit_map(&mut members)?;
                members
                    .0
                    .end(|parser| Ok(parser.next_member()?.is_some()))?;
                Ok(value)
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, XmlRpcError> {
        match self.content()? {
            Content::Nil => visitor.visit_none(),
            content => {
                self.content = Some(content);
                visitor.visit_some(self)
            }
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, XmlRpcError> {
        match self.content {
            None => self.parser.skip()?,
            Some(_) => drop(self.deserialize_any(IgnoredAny)?),
        }
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, XmlRpcError> {
        // No type of Rust has such a name: it is how `RawValue` asks for JSON text, as the value of a map
        // whose one key is that name.
        if name.starts_with('$') {
            let json = Value::deserialize(self)?.to_string();
            return visitor.visit_map(MapDeserializer::new([(name, json)].into_iter()));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, XmlRpcError> {
        match self.content()? {
            Content::Text(text) => visitor.visit_enum(key(text)),
            _ => Err(XmlRpcError::custom("an enum must be text")),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier
    }
}

pub(super) fn key(text: Cow<'_, str>) -> CowStrDeserializer<'_, XmlRpcError> {
    text.into_deserializer()
}

/// What is left of an array or a struct.
struct Rest<'a, 'de> {
    parser: &'a mut Parser<'de>,
    ended: bool,
}

impl<'a, 'de> Rest<'a, 'de> {
    fn new(parser: &'a mut Parser<'de>) -> Self {
        Self {
            parser,
            ended: false,
        }
    }

    /// Reads the end, where the visitor stopped just before it.
    fn end(
        self,
        next: impl FnOnce(&mut Parser<'de>) -> Result<bool, XmlRpcError>,
    ) -> Result<(), XmlRpcError> {
        if !self.ended && next(self.parser)? {
            return Err(XmlRpcError::custom("more values than expected"));
        }
        Ok(())
    }
}

struct Items<'a, 'de>(Rest<'a, 'de>);

impl<'de> SeqAccess<'de> for &mut Items<'_, 'de> {
    type Error = XmlRpcError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, XmlRpcError> {
        if self.0.ended || !self.0.parser.next_item()? {
            self.0.ended = true;
            return Ok(None);
        }
        seed.deserialize(Element::opened(self.0.parser)).map(Some)
    }
}

struct Members<'a, 'de>(Rest<'a, 'de>);

impl<'de> MapAccess<'de> for &mut Members<'_, 'de> {
    type Error = XmlRpcError;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, XmlRpcError> {
        if self.0.ended {
            return Ok(None);
        }
        let Some(name) = self.0.parser.next_member()? else {
            self.0.ended = true;
            return Ok(None);
        };
        seed.deserialize(key(name)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, XmlRpcError> {
        let value = seed.deserialize(Element::next(self.0.parser)?)?;
        self.0.parser.close(Tag::Member)?;
        Ok(value)
    }
}
