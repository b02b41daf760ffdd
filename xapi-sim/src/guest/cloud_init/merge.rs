//! How one document of settings is put into another, as it asks for in `merge_how`.

use super::yaml::Node;

/// What happens to a list that both have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lists {
    Replace,
    Append,
    Prepend,
    Keep,
}

/// The rules of a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merge {
    /// Whether the newer value of a key replaces the older, whatever they are.
    replaces: bool,
    /// Whether lists and texts below the same key are merged, rather than kept.
    into_lists: bool,
    into_texts: bool,
    lists: Lists,
    appends_texts: bool,
}

impl Default for Merge {
    fn default() -> Self {
        Merge {
            replaces: true,
            into_lists: false,
            into_texts: false,
            lists: Lists::Replace,
            appends_texts: false,
        }
    }
}

impl Merge {
    /// The rules in words, `list(append)+dict(recurse_array)+str()`.
    pub(super) fn named(text: &str) -> Self {
        let rules = text.split('+').filter_map(|rule| {
            let (name, settings) = rule.trim().split_once('(')?;
            let settings = settings.trim_end_matches(')').split(',');
            let settings = settings.map(|setting| setting.trim().to_owned());
            Some((name.to_owned(), settings.collect()))
        });
        Self::with(rules.collect())
    }

    /// The rules as a document has them: in words, or as a list of names with settings.
    pub(super) fn of(node: &Node) -> Self {
        if let Some(text) = node.text() {
            return Self::named(text);
        }
        let rules = node.items().iter().filter_map(|rule| {
            let settings = rule.get("settings").map(Node::words);
            Some((rule.text_at("name")?, settings.unwrap_or_default()))
        });
        Self::with(rules.collect())
    }

    fn with(rules: Vec<(String, Vec<String>)>) -> Self {
        let mut made = Merge {
            replaces: false,
            ..Self::default()
        };
        for (name, settings) in rules {
            let has = |setting: &str| settings.iter().any(|known| known == setting);
            match name.as_str() {
                "dict" => {
                    made.replaces = has("replace");
                    made.into_lists = has("recurse_array") || has("recurse_list");
                    made.into_texts = has("recurse_str");
                }
                "list" if has("append") => made.lists = Lists::Append,
                "list" if has("prepend") => made.lists = Lists::Prepend,
                "list" if has("no_replace") => made.lists = Lists::Keep,
                "str" => made.appends_texts = has("append"),
                _ => {}
            }
        }
        made
    }

    /// The older document with what the newer adds.
    pub(super) fn merge(self, old: Node, new: Node) -> Node {
        match (old, new) {
            (Node::Map(old), Node::Map(new)) => Node::Map(self.maps(old, new)),
            (Node::List(old), Node::List(new)) => Node::List(self.lists(old, new)),
            (Node::List(_), new) if self.lists == Lists::Replace => new,
            (Node::Scalar(old, plain), Node::Scalar(new, _)) if self.appends_texts => {
                Node::Scalar(old + &new, plain)
            }
            (Node::Scalar(..), new @ Node::Scalar(..)) => new,
            (old, _) => old,
        }
    }

    fn maps(self, mut old: Vec<(String, Node)>, new: Vec<(String, Node)>) -> Vec<(String, Node)> {
        for (key, value) in new {
            let Some((_, known)) = old.iter_mut().find(|(name, _)| *name == key) else {
                old.push((key, value));
                continue;
            };
            if self.replaces {
                *known = value;
                continue;
            }
            let goes_in = match value {
                Node::Map(_) => true,
                Node::List(_) => self.into_lists,
                Node::Scalar(..) => self.into_texts,
                Node::Nothing => false,
            };
            if goes_in {
                let before = std::mem::replace(known, Node::Nothing);
                *known = self.merge(before, value);
            }
        }
        old
    }

    fn lists(self, mut old: Vec<Node>, mut new: Vec<Node>) -> Vec<Node> {
        match self.lists {
            Lists::Append => {
                old.append(&mut new);
                old
            }
            Lists::Prepend => {
                new.append(&mut old);
                new
            }
            Lists::Keep => {
                // What is longer than the older still comes.
                old.extend(new.into_iter().skip(old.len()).collect::<Vec<_>>());
                old
            }
            Lists::Replace => {
                new.extend(old.into_iter().skip(new.len()).collect::<Vec<_>>());
                new
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(how: Merge, old: &str, new: &str) -> Node {
        how.merge(Node::parse(old).unwrap(), Node::parse(new).unwrap())
    }

    #[test]
    fn the_newer_counts_unless_it_is_asked_to_be_added() {
        let (old, new) = ("{a: [1, 2], b: x, c: {d: 1}}", "{a: [3], b: y, c: {e: 2}}");
        for (how, expected) in [
            (Merge::default(), "{a: [3], b: y, c: {e: 2}}"),
            (
                Merge::named("list(append)+dict(recurse_array)+str()"),
                "{a: [1, 2, 3], b: x, c: {d: 1, e: 2}}",
            ),
            (
                Merge::named("dict(recurse_list,recurse_str)+list(prepend)+str(append)"),
                "{a: [3, 1, 2], b: xy, c: {d: 1, e: 2}}",
            ),
            (
                Merge::of(&Node::parse("[{name: dict, settings: [recurse_list]}]").unwrap()),
                "{a: [3, 2], b: x, c: {d: 1, e: 2}}",
            ),
        ] {
            assert_eq!(merged(how, old, new), Node::parse(expected).unwrap());
        }
    }
}
