//! Which network is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Names;
use crate::{Error, NetworkInfo, Result};

/// Names one network of a pool: `uuid:…`, `name:…`, `bridge:…`, `tag:…`, or any of these without
/// saying which.
///
/// Names of networks are not unique in a pool. What answers to several networks is refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum NetworkSelector {
    /// The network whose uuid, name, bridge or tag this is.
    Any(String),
    /// The network of this uuid.
    Uuid(String),
    /// The network of this name.
    Name(String),
    /// The network of this bridge, `xenbr0`.
    Bridge(String),
    /// The network that has this tag.
    Tag(String),
}

impl NetworkSelector {
    fn matches(&self, network: &NetworkInfo) -> bool {
        match self {
            Self::Uuid(uuid) => network.uuid == *uuid,
            Self::Name(name) => network.name == *name,
            Self::Bridge(bridge) => network.bridge == *bridge,
            Self::Tag(tag) => network.tags.contains(tag),
            Self::Any(text) => {
                network.uuid == *text
                    || network.name == *text
                    || network.bridge == *text
                    || network.tags.contains(text)
            }
        }
    }

    /// The one network that is meant.
    pub(crate) fn choose<'n>(&self, networks: &'n [NetworkInfo]) -> Result<&'n NetworkInfo> {
        let mut found = networks.iter().filter(|network| self.matches(network));
        match (found.next(), found.next()) {
            (Some(network), None) => Ok(network),
            (None, _) => Err(Error::NotFound {
                selector: self.to_string(),
                known: Names(networks.iter().map(NetworkInfo::to_string).collect()),
            }),
            (Some(_), Some(_)) => Err(Error::Ambiguous {
                selector: self.to_string(),
                candidates: Names(
                    networks
                        .iter()
                        .filter(|network| self.matches(network))
                        .map(|network| format!("{network} (uuid {})", network.uuid))
                        .collect(),
                ),
            }),
        }
    }
}

impl fmt::Display for NetworkSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(text) => write!(f, "{text:?}"),
            Self::Uuid(uuid) => write!(f, "\"uuid:{uuid}\""),
            Self::Name(name) => write!(f, "\"name:{name}\""),
            Self::Bridge(bridge) => write!(f, "\"bridge:{bridge}\""),
            Self::Tag(tag) => write!(f, "\"tag:{tag}\""),
        }
    }
}

impl From<&str> for NetworkSelector {
    fn from(text: &str) -> Self {
        let (kind, rest) = text.split_once(':').unwrap_or(("", text));
        match kind {
            "uuid" => Self::Uuid(rest.to_owned()),
            "name" => Self::Name(rest.to_owned()),
            "bridge" => Self::Bridge(rest.to_owned()),
            "tag" => Self::Tag(rest.to_owned()),
            _ => Self::Any(text.to_owned()),
        }
    }
}

impl From<String> for NetworkSelector {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<NetworkSelector> for String {
    fn from(selector: NetworkSelector) -> Self {
        match selector {
            NetworkSelector::Any(text) => text,
            NetworkSelector::Uuid(uuid) => format!("uuid:{uuid}"),
            NetworkSelector::Name(name) => format!("name:{name}"),
            NetworkSelector::Bridge(bridge) => format!("bridge:{bridge}"),
            NetworkSelector::Tag(tag) => format!("tag:{tag}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::pool_of_two;

    fn found(selector: &str) -> Result<String> {
        let networks = pool_of_two().networks();
        NetworkSelector::from(selector)
            .choose(&networks)
            .map(|network| network.bridge.clone())
    }

    #[test]
    fn a_network_is_found_by_uuid_name_bridge_or_tag() {
        for selector in [
            "u-lan",
            "uuid:u-lan",
            "LAN",
            "name:LAN",
            "xenbr0",
            "bridge:xenbr0",
            "tag:office",
            "office",
        ] {
            assert_eq!(found(selector).unwrap(), "xenbr0", "{selector}");
        }
    }

    #[test]
    fn none_and_several_are_refused_with_the_candidates() {
        let error = found("WAN").unwrap_err().to_string();
        assert!(
            error.starts_with("no network is \"WAN\"; this pool has: "),
            "{error}"
        );
        assert!(error.contains("LAN (xenbr0)"), "{error}");
        let error = found("twin").unwrap_err();
        assert!(matches!(error, Error::Ambiguous { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains("twin (xapi1) (uuid u-twin1)"), "{error}");
        assert!(error.contains("twin (xapi2) (uuid u-twin2)"), "{error}");
        // A kind that is named is not taken for another.
        assert!(found("tag:LAN").is_err());
        assert!(found("bridge:LAN").is_err());
    }

    #[test]
    fn selectors_are_written_as_they_are_read() {
        for text in [
            "LAN",
            "uuid:a",
            "name:a:b",
            "bridge:xenbr0",
            "tag:x",
            "odd:thing",
        ] {
            assert_eq!(String::from(NetworkSelector::from(text)), text);
        }
    }
}
