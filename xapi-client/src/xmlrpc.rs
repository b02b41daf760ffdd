//! XML-RPC values: the form in which tasks hold their results, whatever protocol the client speaks.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;
use serde_json::{Map, Number, Value};

/// Results nest a few levels; what goes deeper is an attack on the stack.
const MAX_DEPTH: usize = 64;

/// Text that is no XML-RPC value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum XmlRpcError {
    #[error("the XML is not well-formed")]
    Xml(#[source] quick_xml::Error),
    #[error("unexpected {0} in an XML-RPC value")]
    Unexpected(String),
    #[error("`{text}` is no XML-RPC {kind}")]
    Scalar { kind: &'static str, text: String },
    #[error("an XML-RPC value nests more than {MAX_DEPTH} levels deep")]
    TooDeep,
}

/// The value as JSON. Integers stay text where the server writes them without a type, and floats that are
/// not finite become text: typed decoding reads both.
///
/// Text that is no XML is a result that a client has set, and stands for itself; no text is void.
pub(crate) fn value(text: &str) -> Result<Value, XmlRpcError> {
    if !text.trim_start().starts_with('<') {
        return Ok(Value::from(text));
    }
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut parser = Parser { reader, depth: 0 };
    parser.open("value")?;
    parser.value()
}

struct Parser<'a> {
    reader: Reader<&'a [u8]>,
    depth: usize,
}

/// What is left of an event once comments and the like are skipped.
enum Token {
    Text(String),
    Open(String),
    Close,
}

impl Parser<'_> {
    fn next(&mut self) -> Result<Token, XmlRpcError> {
        loop {
            return Ok(match self.reader.read_event().map_err(XmlRpcError::Xml)? {
                Event::Start(start) => Token::Open(start.name().0.to_owned()),
                Event::End(_) => Token::Close,
                Event::Text(text) => Token::Text((*text).to_owned()),
                Event::CData(text) => Token::Text((*text).to_owned()),
                Event::GeneralRef(reference) => {
                    let character = reference.resolve_char_ref().map_err(XmlRpcError::Xml)?;
                    match (character, resolve_predefined_entity(&reference)) {
                        (Some(character), _) => Token::Text(character.into()),
                        (None, Some(text)) => Token::Text(text.to_owned()),
                        (None, None) => {
                            return Err(XmlRpcError::Unexpected(format!("&{};", &*reference)));
                        }
                    }
                }
                Event::Eof => return Err(XmlRpcError::Unexpected("end".to_owned())),
                _ => continue,
            });
        }
    }

    /// The next tag, past white space.
    fn tag(&mut self) -> Result<Token, XmlRpcError> {
        loop {
            match self.next()? {
                Token::Text(text) if text.trim().is_empty() => {}
                Token::Text(text) => return Err(XmlRpcError::Unexpected(format!("text `{text}`"))),
                tag => return Ok(tag),
            }
        }
    }

    fn open(&mut self, name: &str) -> Result<(), XmlRpcError> {
        match self.tag()? {
            Token::Open(found) if found == name => Ok(()),
            Token::Open(found) => Err(XmlRpcError::Unexpected(format!("<{found}>"))),
            _ => Err(XmlRpcError::Unexpected("end of an element".to_owned())),
        }
    }

    fn close(&mut self) -> Result<(), XmlRpcError> {
        match self.tag()? {
            Token::Close => Ok(()),
            Token::Open(found) => Err(XmlRpcError::Unexpected(format!("<{found}>"))),
            Token::Text(text) => Err(XmlRpcError::Unexpected(format!("text `{text}`"))),
        }
    }

    /// The rest of an element that holds text.
    fn text(&mut self) -> Result<String, XmlRpcError> {
        let mut text = String::new();
        loop {
            match self.next()? {
                Token::Text(more) => text.push_str(&more),
                Token::Close => return Ok(text),
                Token::Open(found) => return Err(XmlRpcError::Unexpected(format!("<{found}>"))),
            }
        }
    }

    /// The rest of a `<value>`.
    fn value(&mut self) -> Result<Value, XmlRpcError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(XmlRpcError::TooDeep);
        }
        let mut text = String::new();
        let value = loop {
            match self.next()? {
                Token::Text(more) => text.push_str(&more),
                // Without a type within, a value is a string, and blanks count.
                Token::Close => break Value::from(text),
                Token::Open(kind) => {
                    let value = self.typed(&kind)?;
                    self.close()?;
                    break value;
                }
            }
        };
        self.depth -= 1;
        Ok(value)
    }

    /// The rest of an element that names a type.
    fn typed(&mut self, kind: &str) -> Result<Value, XmlRpcError> {
        match kind {
            "array" => self.array(),
            "struct" => self.structure(),
            "string" | "dateTime.iso8601" | "base64" => Ok(Value::from(self.text()?)),
            "int" | "i4" | "i8" => {
                let text = self.text()?;
                let number: Result<i64, _> = text.trim().parse();
                number.map(Value::from).map_err(|_| XmlRpcError::Scalar {
                    kind: "integer",
                    text,
                })
            }
            "double" => {
                let text = self.text()?;
                match text.trim().parse() {
                    Ok(number) => {
                        Ok(Number::from_f64(number).map_or(Value::from(text), Value::Number))
                    }
                    Err(_) => Err(XmlRpcError::Scalar {
                        kind: "double",
                        text,
                    }),
                }
            }
            "boolean" => {
                let text = self.text()?;
                match text.trim() {
                    "1" => Ok(Value::from(true)),
                    "0" => Ok(Value::from(false)),
                    _ => Err(XmlRpcError::Scalar {
                        kind: "boolean",
                        text,
                    }),
                }
            }
            "nil" => self.text().map(|_| Value::Null),
            other => Err(XmlRpcError::Unexpected(format!("<{other}>"))),
        }
    }

    fn array(&mut self) -> Result<Value, XmlRpcError> {
        self.open("data")?;
        let mut items = Vec::new();
        loop {
            match self.tag()? {
                Token::Open(name) if name == "value" => items.push(self.value()?),
                Token::Open(name) => return Err(XmlRpcError::Unexpected(format!("<{name}>"))),
                _ => break,
            }
        }
        self.close()?;
        Ok(Value::from(items))
    }

    fn structure(&mut self) -> Result<Value, XmlRpcError> {
        let mut members = Map::new();
        loop {
            match self.tag()? {
                Token::Open(name) if name == "member" => {
                    self.open("name")?;
                    let name = self.text()?;
                    self.open("value")?;
                    members.insert(name, self.value()?);
                    self.close()?;
                }
                Token::Open(name) => return Err(XmlRpcError::Unexpected(format!("<{name}>"))),
                _ => return Ok(Value::from(members)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_all_types() {
        for (xml, expected) in [
            ("<value>OpaqueRef:1</value>", json!("OpaqueRef:1")),
            ("<value></value>", json!("")),
            ("<value/>", json!("")),
            ("", json!("")),
            ("done", json!("done")),
            ("<value>  </value>", json!("  ")),
            (
                "<value>a &lt;b&gt; &amp; &#65;<![CDATA[<c>]]></value>",
                json!("a <b> & A<c>"),
            ),
            ("<value><string>x</string></value>", json!("x")),
            ("<value><i4>-7</i4></value>", json!(-7)),
            ("<value><boolean>1</boolean></value>", json!(true)),
            ("<value><double>0.5</double></value>", json!(0.5)),
            ("<value><double>nan</double></value>", json!("nan")),
            (
                "<?xml version=\"1.0\"?>\n<value><array>\n<data><value>a</value> <value/></data></array></value>",
                json!(["a", ""]),
            ),
            (
                "<value><struct><member><name>k</name><value><array><data/></array></value></member>\
                 </struct></value>",
                json!({"k": []}),
            ),
        ] {
            assert_eq!(value(xml).unwrap(), expected, "{xml}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for xml in [
            "<value>",
            "<other/>",
            "<value><i4>x</i4></value>",
            "<value><what/></value>",
            "<value>&nbsp;</value>",
            "<value><array><data>text</data></array></value>",
        ] {
            assert!(value(xml).is_err(), "{xml}");
        }
        let deep = "<value><array><data>".repeat(100_000);
        assert!(matches!(value(&deep), Err(XmlRpcError::TooDeep)));
    }
}
