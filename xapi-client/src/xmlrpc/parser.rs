//! XML events as the tokens that XML-RPC is made of.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;

/// Values nest a few levels; what goes deeper is an attack on the stack.
const MAX_DEPTH: usize = 64;

/// Text that is no XML-RPC.
#[derive(Debug, thiserror::Error)]
pub(crate) enum XmlRpcError {
    #[error("the XML is not well-formed")]
    Xml(#[source] quick_xml::Error),
    #[error("unexpected {0} in XML-RPC")]
    Unexpected(String),
    #[error("`{text}` is no XML-RPC {kind}")]
    Scalar { kind: &'static str, text: String },
    #[error("an XML-RPC value nests more than {MAX_DEPTH} levels deep")]
    TooDeep,
    #[error("{0}")]
    Custom(String),
}

/// The elements of XML-RPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tag {
    MethodResponse,
    Params,
    Param,
    Fault,
    Value,
    Array,
    Data,
    Struct,
    Member,
    Name,
    /// `string`, and the types whose text is left to the reader.
    Text,
    Int,
    Double,
    Boolean,
    Nil,
    Unknown(String),
}

impl Tag {
    fn of(name: &str) -> Self {
        match name {
            "value" => Self::Value,
            "member" => Self::Member,
            "name" => Self::Name,
            "struct" => Self::Struct,
            "array" => Self::Array,
            "data" => Self::Data,
            "string" | "dateTime.iso8601" | "base64" => Self::Text,
            "int" | "i4" | "i8" => Self::Int,
            "double" => Self::Double,
            "boolean" => Self::Boolean,
            "nil" => Self::Nil,
            "methodResponse" => Self::MethodResponse,
            "params" => Self::Params,
            "param" => Self::Param,
            "fault" => Self::Fault,
            other => Self::Unknown(other.to_owned()),
        }
    }
}

/// What is left of an event once comments and the like are skipped.
pub(super) enum Token<'de> {
    Text(Cow<'de, str>),
    Open(Tag),
    Close,
}

impl Token<'_> {
    pub(super) fn unexpected(&self) -> XmlRpcError {
        XmlRpcError::Unexpected(match self {
            Self::Text(text) => format!("text `{text}`"),
            Self::Open(tag) => format!("start of an element ({tag:?})"),
            Self::Close => "end of an element".to_owned(),
        })
    }
}

/// What stands within a `<value>`. Scalars are read to the end of the value; of arrays and structs, the
/// beginning.
#[derive(Debug)]
pub(super) enum Content<'de> {
    Text(Cow<'de, str>),
    Int(i64),
    Double(f64),
    Bool(bool),
    Nil,
    Array,
    Struct,
}

pub(super) struct Parser<'de> {
    reader: Reader<&'de [u8]>,
    depth: usize,
}

impl<'de> Parser<'de> {
    pub(super) fn new(text: &'de str) -> Self {
        let mut reader = Reader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        // Servers do not escape the keys of maps.
        reader.config_mut().allow_dangling_amp = true;
        Self { reader, depth: 0 }
    }

    /// Where in the text the next token begins.
    pub(super) fn position(&self) -> usize {
        usize::try_from(self.reader.buffer_position()).unwrap_or(usize::MAX)
    }

    fn next(&mut self) -> Result<Token<'de>, XmlRpcError> {
        loop {
            return Ok(match self.reader.read_event().map_err(XmlRpcError::Xml)? {
                Event::Start(start) => Token::Open(Tag::of(start.name().0)),
                Event::End(_) => Token::Close,
                Event::Text(text) => Token::Text(text.into_inner()),
                Event::CData(text) => Token::Text(text.into_inner()),
                Event::GeneralRef(reference) => {
                    let character = reference.resolve_char_ref().map_err(XmlRpcError::Xml)?;
                    Token::Text(match (character, resolve_predefined_entity(&reference)) {
                        (Some(character), _) => character.to_string().into(),
                        (None, Some(text)) => text.into(),
                        // Again a key that was not escaped.
                        (None, None) => format!("&{};", &*reference).into(),
                    })
                }
                Event::Eof => return Err(XmlRpcError::Unexpected("end".to_owned())),
                _ => continue,
            });
        }
    }

    /// The next tag, past white space.
    pub(super) fn tag(&mut self) -> Result<Token<'de>, XmlRpcError> {
        loop {
            match self.next()? {
                Token::Text(text) if text.trim().is_empty() => {}
                text @ Token::Text(_) => return Err(text.unexpected()),
                tag => return Ok(tag),
            }
        }
    }

    pub(super) fn open(&mut self, expected: &Tag) -> Result<(), XmlRpcError> {
        match self.tag()? {
            Token::Open(found) if found == *expected => Ok(()),
            other => Err(other.unexpected()),
        }
    }

    pub(super) fn close(&mut self) -> Result<(), XmlRpcError> {
        match self.tag()? {
            Token::Close => Ok(()),
            other => Err(other.unexpected()),
        }
    }

    /// The rest of an element that holds text.
    pub(super) fn text(&mut self) -> Result<Cow<'de, str>, XmlRpcError> {
        let mut text = Cow::Borrowed("");
        loop {
            match self.next()? {
                Token::Text(more) => append(&mut text, more),
                Token::Close => return Ok(text),
                other @ Token::Open(_) => return Err(other.unexpected()),
            }
        }
    }

    /// What stands within a `<value>` that has just been opened.
    pub(super) fn content(&mut self) -> Result<Content<'de>, XmlRpcError> {
        let mut text = Cow::Borrowed("");
        loop {
            match self.next()? {
                Token::Text(more) => append(&mut text, more),
                // Without a type within, a value is a string, and blanks count.
                Token::Close => return Ok(Content::Text(text)),
                Token::Open(_) if !text.trim().is_empty() => {
                    return Err(Token::Text(text).unexpected());
                }
                Token::Open(tag) => return self.typed(tag),
            }
        }
    }

    fn typed(&mut self, tag: Tag) -> Result<Content<'de>, XmlRpcError> {
        let content = match tag {
            Tag::Array => {
                self.descend()?;
                self.open(&Tag::Data)?;
                return Ok(Content::Array);
            }
            Tag::Struct => {
                self.descend()?;
                return Ok(Content::Struct);
            }
            Tag::Text => Content::Text(self.text()?),
            Tag::Int => Content::Int(self.scalar("integer", |text| text.parse().ok())?),
            Tag::Double => Content::Double(self.scalar("double", |text| text.parse().ok())?),
            Tag::Boolean => Content::Bool(self.scalar("boolean", |text| match text {
                "1" => Some(true),
                "0" => Some(false),
                _ => None,
            })?),
            Tag::Nil => {
                self.text()?;
                Content::Nil
            }
            other => return Err(Token::Open(other).unexpected()),
        };
        self.close()?;
        Ok(content)
    }

    fn scalar<T>(
        &mut self,
        kind: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, XmlRpcError> {
        let text = self.text()?;
        parse(text.trim()).ok_or_else(|| XmlRpcError::Scalar {
            kind,
            text: text.into_owned(),
        })
    }

    fn descend(&mut self) -> Result<(), XmlRpcError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(XmlRpcError::TooDeep);
        }
        Ok(())
    }

    /// Opens the next item of an array; `false` at its end, which is read to the end of the value.
    pub(super) fn next_item(&mut self) -> Result<bool, XmlRpcError> {
        match self.tag()? {
            Token::Open(Tag::Value) => Ok(true),
            Token::Close => {
                self.close()?;
                self.close()?;
                self.depth -= 1;
                Ok(false)
            }
            other => Err(other.unexpected()),
        }
    }

    /// The name of the next member of a struct; `None` at its end, which is read to the end of the value.
    pub(super) fn next_member(&mut self) -> Result<Option<Cow<'de, str>>, XmlRpcError> {
        match self.tag()? {
            Token::Open(Tag::Member) => {
                self.open(&Tag::Name)?;
                Ok(Some(self.text()?))
            }
            Token::Close => {
                self.close()?;
                self.depth -= 1;
                Ok(None)
            }
            other => Err(other.unexpected()),
        }
    }
}

fn append<'de>(text: &mut Cow<'de, str>, more: Cow<'de, str>) {
    if text.is_empty() {
        *text = more;
    } else {
        text.to_mut().push_str(&more);
    }
}
