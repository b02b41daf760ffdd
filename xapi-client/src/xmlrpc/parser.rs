//! The tokens that XML-RPC is made of.
//!
//! Answers are long and of few forms, so tags and text are found by hand. What servers may write but hardly
//! ever do (comments, CDATA, attributes, processing instructions) is left to quick-xml.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, Event};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag<'de> {
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
    Text(&'de str),
    Int(&'de str),
    Double,
    Boolean,
    Nil,
    Unknown(&'de str),
}

impl<'de> Tag<'de> {
    fn of(name: &'de str) -> Self {
        match name {
            "value" => Self::Value,
            "member" => Self::Member,
            "name" => Self::Name,
            "struct" => Self::Struct,
            "array" => Self::Array,
            "data" => Self::Data,
            "string" | "dateTime.iso8601" | "base64" => Self::Text(name),
            "int" | "i4" | "i8" => Self::Int(name),
            "double" => Self::Double,
            "boolean" => Self::Boolean,
            "nil" => Self::Nil,
            "methodResponse" => Self::MethodResponse,
            "params" => Self::Params,
            "param" => Self::Param,
            "fault" => Self::Fault,
            other => Self::Unknown(other),
        }
    }
}

/// What is left of XML once comments and the like are skipped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'de> {
    Text(Cow<'de, str>),
    Open(Tag<'de>),
    Close(Tag<'de>),
}

impl Token<'_> {
    pub(super) fn unexpected(&self) -> XmlRpcError {
        XmlRpcError::Unexpected(match self {
            Self::Text(text) => format!("text `{text}`"),
            Self::Open(tag) => format!("start of an element ({tag:?})"),
            Self::Close(tag) => format!("end of an element ({tag:?})"),
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
    text: &'de str,
    /// Where the next token begins.
    at: usize,
    /// The element that is still to be closed, after a tag that opened and closed it.
    closing: Option<Tag<'de>>,
    depth: usize,
}

impl<'de> Parser<'de> {
    pub(super) fn new(text: &'de str) -> Self {
        Self {
            text,
            at: 0,
            closing: None,
            depth: 0,
        }
    }

    /// Where in the text the next token begins.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    fn rest(&self) -> &'de str {
        &self.text[self.at..]
    }

    fn next(&mut self) -> Result<Token<'de>, XmlRpcError> {
        if let Some(tag) = self.closing.take() {
            return Ok(Token::Close(tag));
        }
        loop {
            let rest = self.rest();
            if rest.is_empty() {
                return Err(end());
            }
            let Some(tag) = rest.strip_prefix('<') else {
                let length = rest.find('<').unwrap_or(rest.len());
                self.at += length;
                return Ok(Token::Text(resolve(&rest[..length])));
            };
            if let Some((name, length)) = plain(tag) {
                self.at += 1 + length;
                return Ok(match name.strip_prefix('/') {
                    Some(name) => Token::Close(Tag::of(name)),
                    None => Token::Open(Tag::of(name)),
                });
            }
            if let Some(token) = self.rarely()? {
                return Ok(token);
            }
        }
    }

    /// One token of those that are seldom seen; `None` for what has no meaning here.
    #[cold]
    fn rarely(&mut self) -> Result<Option<Token<'de>>, XmlRpcError> {
        let rest = self.rest();
        let mut reader = Reader::from_str(rest);
        // It sees one token only; which element an end belongs to is looked at elsewhere.
        reader.config_mut().check_end_names = false;
        reader.config_mut().allow_unmatched_ends = true;
        let event = reader.read_event().map_err(XmlRpcError::Xml)?;
        self.at += usize::try_from(reader.buffer_position()).unwrap_or(rest.len());
        // Names are looked up where they stand in the text: events may not outlive their reader.
        let name =
            |length: usize, before: usize| Tag::of(rest.get(before..before + length).unwrap_or(""));
        Ok(match event {
            Event::Start(start) => Some(Token::Open(name(start.name().0.len(), 1))),
            Event::Empty(start) => {
                let tag = name(start.name().0.len(), 1);
                self.closing = Some(tag);
                Some(Token::Open(tag))
            }
            Event::End(end) => Some(Token::Close(name(end.name().0.len(), 2))),
            Event::Text(text) => Some(Token::Text(text.into_inner())),
            Event::CData(text) => Some(Token::Text(text.into_inner())),
            Event::Eof => return Err(end()),
            _ => None,
        })
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

    pub(super) fn open(&mut self, expected: Tag<'_>) -> Result<(), XmlRpcError> {
        match self.tag()? {
            Token::Open(found) if found == expected => Ok(()),
            other => Err(other.unexpected()),
        }
    }

    pub(super) fn close(&mut self, expected: Tag<'_>) -> Result<(), XmlRpcError> {
        match self.tag()? {
            Token::Close(found) if found == expected => Ok(()),
            other => Err(other.unexpected()),
        }
    }

    /// The rest of an element that holds text.
    fn text(&mut self, element: Tag<'_>) -> Result<Cow<'de, str>, XmlRpcError> {
        let mut text = Cow::Borrowed("");
        loop {
            match self.next()? {
                Token::Text(more) => append(&mut text, more),
                Token::Close(tag) if tag == element => return Ok(text),
                other => return Err(other.unexpected()),
            }
        }
    }

    /// The rest of a `<name>`. Servers do not escape the keys of maps, so all up to the end is the name.
    fn name(&mut self) -> Result<Cow<'de, str>, XmlRpcError> {
        const END: &str = "</name>";
        let rest = self.rest();
        match rest.find(END) {
            Some(length) if self.closing.is_none() && !rest[..length].contains("<!") => {
                self.at += length + END.len();
                Ok(resolve(&rest[..length]))
            }
            _ => self.text(Tag::Name),
        }
    }

    /// What stands within a `<value>` that has just been opened.
    pub(super) fn content(&mut self) -> Result<Content<'de>, XmlRpcError> {
        let mut text = Cow::Borrowed("");
        loop {
            match self.next()? {
                Token::Text(more) => append(&mut text, more),
                // Without a type within, a value is a string, and blanks count.
                Token::Close(Tag::Value) => return Ok(Content::Text(text)),
                Token::Open(_) if !text.trim().is_empty() => {
                    return Err(Token::Text(text).unexpected());
                }
                Token::Open(tag) => return self.typed(tag),
                other @ Token::Close(_) => return Err(other.unexpected()),
            }
        }
    }

    fn typed(&mut self, tag: Tag<'de>) -> Result<Content<'de>, XmlRpcError> {
        let content = match tag {
            Tag::Array => {
                self.descend()?;
                self.open(Tag::Data)?;
                return Ok(Content::Array);
            }
            Tag::Struct => {
                self.descend()?;
                return Ok(Content::Struct);
            }
            Tag::Text(_) => Content::Text(self.text(tag)?),
            Tag::Int(_) => Content::Int(self.scalar(tag, "integer", |text| text.parse().ok())?),
            Tag::Double => Content::Double(self.scalar(tag, "double", |text| text.parse().ok())?),
            Tag::Boolean => Content::Bool(self.scalar(tag, "boolean", |text| match text {
                "1" => Some(true),
                "0" => Some(false),
                _ => None,
            })?),
            Tag::Nil => {
                self.text(tag)?;
                Content::Nil
            }
            other => return Err(Token::Open(other).unexpected()),
        };
        self.close(Tag::Value)?;
        Ok(content)
    }

    fn scalar<T>(
        &mut self,
        element: Tag<'_>,
        kind: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, XmlRpcError> {
        let text = self.text(element)?;
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

    /// Passes over the rest of a `<value>` that nobody wants, without a look at what it is made of.
    pub(super) fn skip(&mut self) -> Result<(), XmlRpcError> {
        let mut open = 1;
        while open > 0 {
            if self.closing.is_none() {
                self.at += self.rest().find('<').ok_or_else(end)?;
                let tag = &self.text.as_bytes()[self.at + 1..];
                if tag.starts_with(b"/value>") {
                    self.at += "</value>".len();
                    open -= 1;
                    continue;
                }
                if !matches!(tag.first(), Some(b'v' | b'!' | b'?')) {
                    self.at += 1;
                    continue;
                }
            }
            match self.next()? {
                Token::Open(Tag::Value) => open += 1,
                Token::Close(Tag::Value) => open -= 1,
                _ => {}
            }
            // Nobody descends here, but what is refused when it is read is refused when it is not.
            if open > 1 + MAX_DEPTH {
                return Err(XmlRpcError::TooDeep);
            }
        }
        Ok(())
    }

    /// Opens the next item of an array; `false` at its end, which is read to the end of the value.
    pub(super) fn next_item(&mut self) -> Result<bool, XmlRpcError> {
        match self.tag()? {
            Token::Open(Tag::Value) => Ok(true),
            Token::Close(Tag::Data) => {
                self.close(Tag::Array)?;
                self.close(Tag::Value)?;
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
                self.open(Tag::Name)?;
                Ok(Some(self.name()?))
            }
            Token::Close(Tag::Struct) => {
                self.close(Tag::Value)?;
                self.depth -= 1;
                Ok(None)
            }
            other => Err(other.unexpected()),
        }
    }
}

fn end() -> XmlRpcError {
    XmlRpcError::Unexpected("end".to_owned())
}

/// The name in a tag without attributes and blanks, and the length of the tag. The tag begins after its `<`.
fn plain(tag: &str) -> Option<(&str, usize)> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
    let bytes = tag.as_bytes();
    let slash = usize::from(bytes.first() == Some(&b'/'));
    let length = bytes[slash..].iter().position(|&byte| !is_plain(byte))?;
    let end = slash + length;
    (length > 0 && bytes[end] == b'>').then(|| (&tag[..end], end + 1))
}

/// Text with the characters that its references stand for. What is no reference stays: servers do not escape
/// the keys of maps.
fn resolve(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find('&') else {
        return Cow::Borrowed(text);
    };
    let mut resolved = text[..first].to_owned();
    let mut rest = &text[first..];
    while let Some(after) = rest.strip_prefix('&') {
        let reference = after
            .find([';', '&'])
            .filter(|&at| after.as_bytes()[at] == b';');
        let name = reference.map_or("", |at| &after[..at]);
        let character = BytesRef::new(name).resolve_char_ref().ok().flatten();
        match (character, resolve_predefined_entity(name)) {
            (Some(character), _) => resolved.push(character),
            (None, Some(entity)) => resolved.push_str(entity),
            (None, None) => resolved.push_str(&rest[..=name.len()]),
        }
        let is_known = character.is_some() || resolve_predefined_entity(name).is_some();
        rest = &rest[1 + name.len() + usize::from(is_known)..];
        let plain = rest.find('&').unwrap_or(rest.len());
        resolved.push_str(&rest[..plain]);
        rest = &rest[plain..];
    }
    Cow::Owned(resolved)
}

fn append<'de>(text: &mut Cow<'de, str>, more: Cow<'de, str>) {
    if text.is_empty() {
        *text = more;
    } else {
        text.to_mut().push_str(&more);
    }
}
