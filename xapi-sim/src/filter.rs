//! The expressions of `get_all_records_where`.
//!
//! The grammar is the server's, traps included: `and` and `or` share one precedence and group to
//! the left, `not` takes everything to its right, strings know no escape.

use crate::failure::Failure;

/// A parsed expression.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    True,
    False,
    Not(Box<Filter>),
    And(Box<Filter>, Box<Filter>),
    Or(Box<Filter>, Box<Filter>),
    Eq(Operand, Operand),
}

/// A side of a comparison.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    Literal(String),
    Field(String),
}

impl Filter {
    /// Reads an expression.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` with the expression and the exception of the server's parser.
    pub(crate) fn parse(expression: &str) -> Result<Filter, Failure> {
        let mut parser = Parser {
            rest: expression,
            ahead: None,
        };
        let parsed = parser.expression().and_then(|filter| match parser.next()? {
            Token::End => Ok(filter),
            _ => Err(Trouble::Syntax),
        });
        parsed.map_err(|trouble| {
            let exception = match trouble {
                Trouble::Lexical => "Failure(\"lexing: empty token\")",
                Trouble::Syntax => "Stdlib.Parsing.Parse_error",
            };
            Failure::invalid_value(expression, exception)
        })
    }

    /// Whether a row matches; `column` gives the text of a column.
    ///
    /// # Errors
    ///
    /// `INTERNAL_ERROR` for a column that the table does not have.
    pub(crate) fn matches(
        &self,
        column: &impl Fn(&str) -> Option<String>,
    ) -> Result<bool, Failure> {
        Ok(match self {
            Filter::True => true,
            Filter::False => false,
            Filter::Not(inner) => !inner.matches(column)?,
            Filter::And(left, right) => left.matches(column)? && right.matches(column)?,
            Filter::Or(left, right) => left.matches(column)? || right.matches(column)?,
            Filter::Eq(left, right) => left.text(column)? == right.text(column)?,
        })
    }
}

impl Operand {
    fn text(&self, column: &impl Fn(&str) -> Option<String>) -> Result<String, Failure> {
        match self {
            Operand::Literal(text) => Ok(text.clone()),
            Operand::Field(name) => column(name)
                .ok_or_else(|| Failure::new("INTERNAL_ERROR", ["missing field", name, ""])),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Equals,
    True,
    False,
    Field,
    And,
    Or,
    Not,
    Open,
    Close,
    Text(String),
    End,
}

#[derive(Debug)]
enum Trouble {
    Lexical,
    Syntax,
}

struct Parser<'e> {
    rest: &'e str,
    ahead: Option<Token>,
}

impl Parser<'_> {
    /// The next token. Tokens are read only when the grammar asks for them, so of several
    /// mistakes the first one is reported.
    fn next(&mut self) -> Result<Token, Trouble> {
        if let Some(token) = self.ahead.take() {
            return Ok(token);
        }
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n']);
        if self.rest.is_empty() {
            return Ok(Token::End);
        }
        if let Some(quoted) = self.rest.strip_prefix('"') {
            let end = quoted.find('"').ok_or(Trouble::Lexical)?;
            let text = quoted[..end].to_owned();
            self.rest = &quoted[end + 1..];
            return Ok(Token::Text(text));
        }
        for (word, token) in [
            ("=", Token::Equals),
            ("(", Token::Open),
            (")", Token::Close),
            ("true", Token::True),
            ("false", Token::False),
            ("field", Token::Field),
            ("and", Token::And),
            ("or", Token::Or),
            ("not", Token::Not),
        ] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(token);
            }
        }
        Err(Trouble::Lexical)
    }

    fn expression(&mut self) -> Result<Filter, Trouble> {
        let mut left = self.operand()?;
        loop {
            match self.next()? {
                Token::And => {
                    left = Filter::And(Box::new(left), Box::new(self.operand()?));
                }
                Token::Or => {
                    left = Filter::Or(Box::new(left), Box::new(self.operand()?));
                }
                other => {
                    self.ahead = Some(other);
                    return Ok(left);
                }
            }
        }
    }

    fn operand(&mut self) -> Result<Filter, Trouble> {
        match self.next()? {
            Token::True => Ok(Filter::True),
            Token::False => Ok(Filter::False),
            // Everything that follows belongs to the negation.
            Token::Not => Ok(Filter::Not(Box::new(self.expression()?))),
            Token::Open => {
                let inner = self.expression()?;
                match self.next()? {
                    Token::Close => Ok(inner),
                    _ => Err(Trouble::Syntax),
                }
            }
            Token::Text(text) => self.comparison(Operand::Literal(text)),
            Token::Field => {
                let field = self.field()?;
                self.comparison(field)
            }
            _ => Err(Trouble::Syntax),
        }
    }

    fn field(&mut self) -> Result<Operand, Trouble> {
        match self.next()? {
            Token::Text(name) => Ok(Operand::Field(name)),
            _ => Err(Trouble::Syntax),
        }
    }

    fn comparison(&mut self, left: Operand) -> Result<Filter, Trouble> {
        if self.next()? != Token::Equals {
            return Err(Trouble::Syntax);
        }
        let right = match self.next()? {
            Token::Text(text) => Operand::Literal(text),
            Token::Field => self.field()?,
            _ => return Err(Trouble::Syntax),
        };
        Ok(Filter::Eq(left, right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(expression: &str) -> Result<bool, Failure> {
        Filter::parse(expression)?.matches(&|column| match column {
            "name__label" => Some("x".to_owned()),
            "power_state" => Some("Halted".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn truth() {
        for (expression, truth) in [
            ("true", true),
            ("field \"name__label\" = \"x\"", true),
            ("field\"name__label\"=\"x\"", true),
            ("field \"power_state\" = \"halted\"", false),
            ("\"a\" = \"a\"", true),
            ("\"x\" = field \"name__label\"", true),
            // One precedence, grouping to the left: (true or true) and false.
            ("true or true and false", false),
            ("true or (true and false)", true),
            // `not` binds loosest: not (false and false).
            ("not false and false", true),
            ("(not false) and false", false),
            ("true and not false and false", true),
        ] {
            assert_eq!(eval(expression), Ok(truth), "{expression}");
        }
    }

    #[test]
    fn mistakes() {
        let lexical = "Failure(\"lexing: empty token\")";
        let syntax = "Stdlib.Parsing.Parse_error";
        for (expression, exception) in [
            ("name = x", lexical),
            ("", syntax),
            ("TRUE", lexical),
            ("field 'name__label' = 'x'", lexical),
            ("field \"name__label\" != \"x\"", lexical),
            ("field \"name__label\" == \"x\"", syntax),
            ("field \"name__label\" = \"a\\\"b\"", lexical),
            ("true true", syntax),
            ("(true", syntax),
        ] {
            assert_eq!(
                eval(expression),
                Err(Failure::invalid_value(expression, exception)),
                "{expression}"
            );
        }
        assert_eq!(
            eval("field \"name_label\" = \"x\""),
            Err(Failure::new(
                "INTERNAL_ERROR",
                ["missing field", "name_label", ""]
            ))
        );
    }
}
