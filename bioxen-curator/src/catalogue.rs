//! Rocks that are known, and sets of them by name.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::lock::one_line;
use crate::{Curator, Error, InstallReport, Result, Rock, RockName, RockRequest};

const BUILT_IN: &str = include_str!("catalogue.toml");

/// Profiles, and what is known of rocks. Both are data in TOML.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Catalogue {
    /// The rocks by name.
    #[serde(rename = "rock")]
    pub rocks: BTreeMap<RockName, Entry>,
    /// The profiles by name.
    #[serde(rename = "profile")]
    pub profiles: BTreeMap<String, Profile>,
}

/// What is known of a rock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Entry {
    /// What it is for: `bio`, `core`, `network`, `development`.
    pub category: String,
    /// What it does, in a line.
    pub summary: String,
    /// The rocks that it goes well with.
    pub with: Vec<RockName>,
    /// How much it is recommended, from 1 to 10; 5 when nothing is said.
    pub priority: Option<u8>,
    /// Why it cannot be installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
}

/// A set of rocks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Profile {
    /// What it is for, in a line.
    pub summary: String,
    /// Profiles whose rocks it has too.
    pub includes: Vec<String>,
    /// Its rocks, as requests: `lpeg >= 1.0`.
    pub rocks: Vec<String>,
}

/// The rocks of a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// Those that can be installed.
    pub requests: Vec<RockRequest>,
    /// Those that cannot, with the reason.
    pub unavailable: Vec<(RockName, String)>,
}

/// A rock that may be of use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Recommendation {
    /// The rock.
    pub rock: RockName,
    /// What it does.
    pub summary: String,
    /// Why it is recommended.
    pub reason: String,
}

/// What came of the installation of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProfileReport {
    /// What was installed.
    pub report: InstallReport,
    /// The rocks of the profile that no server has, with the reason. They were not asked for.
    pub unavailable: Vec<(RockName, String)>,
}

impl Catalogue {
    /// The catalogue that comes with BioXen.
    ///
    /// # Errors
    /// Never fails as it is shipped; a test reads all of it.
    pub fn built_in() -> Result<Self> {
        Self::read(BUILT_IN)
    }

    /// Reads a catalogue.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`] when it is none, or names something that no rock can be called.
    pub fn read(text: &str) -> Result<Self> {
        let catalogue: Self = toml::from_str(text)
            .map_err(|error| Error::Invalid(format!("it is no catalogue: {}", one_line(&error))))?;
        for (name, profile) in &catalogue.profiles {
            for rock in &profile.rocks {
                rock.parse::<RockRequest>()
                    .map_err(|error| Error::Invalid(format!("profile {name}: {error}")))?;
            }
        }
        Ok(catalogue)
    }

    /// Adds what another catalogue has; it wins where both have the same name.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.rocks.extend(other.rocks);
        self.profiles.extend(other.profiles);
        self
    }

    /// Why no server has this rock, where that is known.
    #[must_use]
    pub fn unavailable(&self, name: &RockName) -> Option<&str> {
        self.rocks.get(name)?.unavailable.as_deref()
    }

    /// The rocks of a profile, with those that it includes.
    ///
    /// # Errors
    /// Fails with [`Error::Invalid`] when there is no such profile.
    pub fn select(&self, profile: &str) -> Result<Selection> {
        let mut selection = Selection::default();
        self.gather(profile, &mut BTreeSet::new(), &mut selection)?;
        Ok(selection)
    }

    fn gather(&self, name: &str, seen: &mut BTreeSet<String>, into: &mut Selection) -> Result<()> {
        let profile = self.profiles.get(name).ok_or_else(|| {
            let known: Vec<_> = self.profiles.keys().map(String::as_str).collect();
            Error::Invalid(format!(
                "there is no profile {name:?}; there are {}",
                known.join(", ")
            ))
        })?;
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        for included in &profile.includes {
            self.gather(included, seen, into)?;
        }
        for rock in &profile.rocks {
            let request: RockRequest = rock.parse()?;
            match self.unavailable(&request.name).map(str::to_owned) {
                Some(reason) => into.unavailable.push((request.name, reason)),
                None if into.requests.contains(&request) => {}
                None => into.requests.push(request),
            }
        }
        Ok(())
    }

    /// Rocks that may be of use beside those that are installed, the most useful first: what a
    /// profile has, and what goes well with what is there.
    ///
    /// # Errors
    /// As [`select`](Self::select).
    pub fn recommend(
        &self,
        installed: &[Rock],
        profile: Option<&str>,
    ) -> Result<Vec<Recommendation>> {
        let is_there = |name: &RockName| installed.iter().any(|rock| rock.name == *name);
        let selection = match profile {
            Some(profile) => self.select(profile)?,
            None => Selection::default(),
        };
        let mut found = Vec::new();
        for (name, entry) in &self.rocks {
            if is_there(name) || entry.unavailable.is_some() {
                continue;
            }
            let in_profile = selection
                .requests
                .iter()
                .any(|request| request.name == *name);
            let company = entry.with.iter().find(|other| is_there(other));
            let reason = match (in_profile, company, entry.category.as_str()) {
                (true, ..) => format!("the profile {} has it", profile.unwrap_or_default()),
                (_, Some(other), _) => format!("it goes well with {other}, which is installed"),
                (.., "bio") => "it is made for biological computation".to_owned(),
                _ => continue,
            };
            let rank = (in_profile, entry.priority.unwrap_or(5));
            found.push((
                rank,
                Recommendation {
                    rock: name.clone(),
                    summary: entry.summary.clone(),
                    reason,
                },
            ));
        }
        found.sort_by(|(a, _), (b, _)| b.cmp(a));
        Ok(found
            .into_iter()
            .map(|(_, recommended)| recommended)
            .collect())
    }
}

impl Curator {
    /// Installs the rocks of a profile: all that a server can have, or none when one fails.
    ///
    /// # Errors
    /// As [`Catalogue::select`] and [`install`](Self::install).
    ///
    /// # Cancel safety
    /// As [`install`](Self::install).
    pub async fn install_profile(
        &self,
        catalogue: &Catalogue,
        profile: &str,
    ) -> Result<ProfileReport> {
        let selection = catalogue.select(profile)?;
        Ok(ProfileReport {
            report: self.install(&selection.requests).await?,
            unavailable: selection.unavailable,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RockVersion;

    fn names(selection: &Selection) -> Vec<String> {
        selection.requests.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_profile_that_comes_along_can_be_selected_and_names_known_rocks() {
        let catalogue = Catalogue::built_in().unwrap();
        for (name, profile) in &catalogue.profiles {
            catalogue.select(name).unwrap();
            for rock in &profile.rocks {
                let rock = RockName::new(rock).unwrap();
                assert!(catalogue.rocks.contains_key(&rock), "{name}: {rock}");
            }
        }
        for (name, rocks) in [
            ("minimal", ""),
            ("standard", "lua-cjson luafilesystem inspect"),
            (
                "full",
                "lua-cjson luafilesystem inspect penlight luasocket lpeg",
            ),
            ("production", "lua-cjson luafilesystem penlight"),
            ("networking", "lua-cjson luasocket http penlight"),
            ("bio", "bio_compute bio_sequence_analysis"),
        ] {
            let selection = catalogue.select(name).unwrap();
            assert_eq!(names(&selection).join(" "), rocks, "{name}");
            assert!(selection.unavailable.is_empty());
        }
    }

    #[test]
    fn names_that_no_server_has_are_told_and_never_asked_for() {
        let catalogue = Catalogue::built_in().unwrap();
        let selection = catalogue.select("bioxen-ai").unwrap();
        assert_eq!(names(&selection), ["lua-cjson", "luafilesystem", "inspect"]);
        assert_eq!(selection.unavailable.len(), 1);
        assert_eq!(selection.unavailable[0].0.as_str(), "gabby-lua");
    }

    #[test]
    fn a_users_catalogue_stands_beside_and_wins() {
        let own = Catalogue::read(
            "[profile.lab]\nsummary = \"ours\"\nincludes = [\"bio-minimal\"]\n\
             rocks = [\"lpeg >= 1.0\"]\n[rock.phylo-tree]\nsummary = \"our own\"\n\
             [profile.bioxen-minimal]\nrocks = [\"phylo-tree\"]\n",
        )
        .unwrap();
        let all = Catalogue::built_in().unwrap().with(own);
        assert_eq!(
            names(&all.select("lab").unwrap()),
            ["bio_compute", "lpeg >= 1.0"]
        );
        assert_eq!(
            names(&all.select("bioxen-minimal").unwrap()),
            ["phylo-tree"]
        );
        let error = all.select("nope").unwrap_err().to_string();
        assert!(
            error.contains("there is no profile \"nope\"; there are "),
            "{error}"
        );
        for bad in [
            "[profile.x]\nrocks = [\"a;b\"]",
            "[profil.x]",
            "[rock.\"a b\"]",
        ] {
            assert!(Catalogue::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn recommendations_have_reasons() {
        let catalogue = Catalogue::built_in().unwrap();
        let rock = |name: &str| Rock {
            name: RockName::new(name).unwrap(),
            version: RockVersion::new("1.0-1").unwrap(),
        };
        let there = [rock("luasocket"), rock("bio_compute")];
        let found = catalogue.recommend(&there, Some("standard")).unwrap();
        let reason = |name: &str| {
            let found = found.iter().find(|found| found.rock.as_str() == name);
            found.map(|found| found.reason.clone())
        };
        assert_eq!(reason("lua-cjson").unwrap(), "the profile standard has it");
        assert!(reason("luasec").unwrap().contains("luasocket"));
        assert!(
            reason("bio_sequence_analysis")
                .unwrap()
                .contains("bio_compute")
        );
        assert_eq!(reason("luasocket"), None);
        assert_eq!(reason("phylo-tree"), None);
        assert_eq!(found[0].reason, "the profile standard has it");
    }
}
