//! What the servers have.

use std::collections::{BTreeMap, HashMap};

use bioxen_vm_core::words::distance;
use bytes::Bytes;
use tokio::sync::Mutex;

use crate::error::Unreachable;
use crate::evaluate::Interpreter;
use crate::fetch::{Fetcher, Kind, Miss};
use crate::lua_table::{self, Value};
use crate::rockspec::Rockspec;
use crate::server::Place;
use crate::{
    Error, Form, Found, Result, Rock, RockName, RockRequest, RockVersion, RocksServer, zip,
};

/// The rocks of some servers that can be used on one kind of machine.
#[derive(Debug)]
pub(crate) struct Index {
    fetcher: Fetcher,
    lua: Interpreter,
    servers: Vec<(String, Place)>,
    /// Oldest first; of one version, the order of the servers, and on a server the best form first.
    offers: BTreeMap<RockName, Vec<Offer>>,
    /// Servers that could not be read, and why.
    dead: Vec<(String, String)>,
    /// What was read so far.
    files: Mutex<HashMap<(usize, String), Bytes>>,
}

/// A file that holds a rock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) rock: Rock,
    pub(crate) server: usize,
    arch: String,
}

impl Offer {
    pub(crate) fn file(&self) -> String {
        let Rock { name, version } = &self.rock;
        match self.arch.as_str() {
            "rockspec" => format!("{name}-{version}.rockspec"),
            arch => format!("{name}-{version}.{arch}.rock"),
        }
    }

    pub(crate) fn form(&self) -> Form {
        match self.arch.as_str() {
            "src" | "rockspec" => Form::Source,
            _ => Form::Binary,
        }
    }

    /// The forms in the order in which they are taken.
    fn rank(&self) -> u8 {
        match self.arch.as_str() {
            "all" => 0,
            "src" => 2,
            "rockspec" => 3,
            _ => 1,
        }
    }

    /// Whether its file holds all that is built.
    pub(crate) fn is_complete(&self) -> bool {
        self.arch != "rockspec"
    }

    /// Whether the file may be replaced by another of its name, as those of development versions are.
    pub(crate) fn is_moving(&self) -> bool {
        let version = self.rock.version.as_str();
        let words = ["scm", "dev", "cvs"];
        words.iter().any(|word| version.starts_with(word))
    }

    fn kind(&self) -> Kind {
        if self.is_moving() {
            Kind::Changing
        } else {
            Kind::Lasting
        }
    }
}

impl Index {
    /// Reads the manifests of servers for a version of Lua and a kind of machine (`linux-x86_64`).
    /// Rockspecs that compute something are run by `lua`.
    ///
    /// A server that does not answer is remembered, and fails nothing yet. One whose manifest makes
    /// no sense fails at once.
    pub(crate) async fn read(
        servers: &[RocksServer],
        fetcher: Fetcher,
        lua: Interpreter,
        lua_version: &str,
        arch: &str,
    ) -> Result<Self> {
        let mut index = Self {
            fetcher,
            lua,
            servers: Vec::new(),
            offers: BTreeMap::new(),
            dead: Vec::new(),
            files: Mutex::default(),
        };
        for server in servers {
            let label = server.to_string();
            let place = server.place()?;
            match manifest(&index.fetcher, &place, lua_version).await {
                Ok(text) => index.add(label, place, &text, arch)?,
                Err(Miss::Absent) if !matches!(place, Place::Urls(_)) => {
                    return Err(Error::NoManifest {
                        path: label.into(),
                        lua_version: lua_version.to_owned(),
                    });
                }
                Err(Miss::Absent) => {
                    let reason = format!("it has no manifest for Lua {lua_version}");
                    index.dead.push((label, reason));
                }
                Err(Miss::Unreachable(reason)) => index.dead.push((label, reason)),
                Err(Miss::Error(error)) => return Err(error),
            }
        }
        for offers in index.offers.values_mut() {
            offers.sort_by(|a, b| {
                let by_version = a.rock.version.cmp(&b.rock.version);
                by_version
                    .then(a.server.cmp(&b.server))
                    .then(a.rank().cmp(&b.rank()))
            });
        }
        Ok(index)
    }

    fn add(&mut self, label: String, place: Place, text: &str, arch: &str) -> Result<()> {
        let bad = |reason: String| Error::BadManifest {
            server: label.clone(),
            reason,
        };
        let all = lua_table::parse(text).map_err(bad)?;
        let repository = all
            .get("repository")
            .and_then(Value::fields)
            .ok_or_else(|| bad("it names no repository".into()))?;
        let server = self.servers.len();
        for (name, versions) in repository {
            // Names and versions that LuaRocks would not take either are passed over.
            let Ok(name) = RockName::new(name) else {
                continue;
            };
            for (version, forms) in versions.fields().into_iter().flatten() {
                let Ok(version) = RockVersion::new(version.as_str()) else {
                    continue;
                };
                let forms = forms.items().iter().filter_map(|form| form.get("arch"));
                let offers = forms
                    .filter_map(Value::as_str)
                    .filter(|form| ["all", "src", "rockspec", arch].contains(form))
                    .map(|form| Offer {
                        rock: Rock {
                            name: name.clone(),
                            version: version.clone(),
                        },
                        server,
                        arch: form.to_owned(),
                    });
                self.offers.entry(name.clone()).or_default().extend(offers);
            }
        }
        self.servers.push((label, place));
        Ok(())
    }

    /// The servers in words, also those that did not answer.
    pub(crate) fn servers(&self) -> Vec<String> {
        let dead = self.dead.iter().map(|(label, _)| label.clone());
        self.readable().into_iter().chain(dead).collect()
    }

    /// The servers that answered, in words.
    pub(crate) fn readable(&self) -> Vec<String> {
        let living = self.servers.iter();
        living.map(|(label, _)| label.clone()).collect()
    }

    pub(crate) fn label(&self, offer: &Offer) -> &str {
        self.servers
            .get(offer.server)
            .map_or("", |(label, _)| label)
    }

    /// The address that the file of an offer has outside of this machine.
    pub(crate) fn source(&self, offer: &Offer) -> String {
        match self.servers.get(offer.server) {
            Some((_, Place::Urls(urls))) => {
                format!(
                    "{}/{}",
                    urls.first().map_or("", String::as_str),
                    offer.file()
                )
            }
            Some((_, Place::Directory(path) | Place::Archive(path))) => {
                path.join(offer.file()).display().to_string()
            }
            Some((label, Place::Embedded(_))) => format!("{label}:{}", offer.file()),
            None => String::new(),
        }
    }

    pub(crate) fn dead(&self) -> Option<Unreachable> {
        (!self.dead.is_empty()).then(|| Unreachable(self.dead.clone()))
    }

    /// The name that was probably meant by one that nobody has.
    pub(crate) fn similar(&self, name: &RockName) -> Option<&RockName> {
        let letters = |other: &&RockName| distance(name.as_str(), other.as_str());
        let nearest = self.offers.keys().min_by_key(letters)?;
        let most = 1 + name.as_str().len() / 8;
        (1..=most).contains(&letters(&nearest)).then_some(nearest)
    }

    /// The versions of every rock, oldest first.
    pub(crate) fn versions(&self) -> BTreeMap<RockName, Vec<RockVersion>> {
        let of = |offers: &Vec<Offer>| {
            let mut versions: Vec<_> = offers.iter().map(|o| o.rock.version.clone()).collect();
            versions.dedup();
            versions
        };
        let all = self.offers.iter();
        all.map(|(name, offers)| (name.clone(), of(offers)))
            .collect()
    }

    /// The file that a rock is taken from.
    pub(crate) fn best(&self, rock: &Rock) -> Option<&Offer> {
        self.offers
            .get(&rock.name)?
            .iter()
            .find(|offer| offer.rock.version == rock.version)
    }

    /// The newest rock that answers a request.
    pub(crate) fn newest(&self, request: &RockRequest) -> Option<&Offer> {
        let offers = self.offers.get(&request.name)?;
        let best = offers.iter().rfind(|offer| request.accepts(&offer.rock))?;
        self.best(&best.rock)
    }

    /// The rocks whose names contain a text, by name, oldest version first.
    pub(crate) fn search(&self, text: &str) -> Vec<Found> {
        self.offers
            .iter()
            .filter(|(name, _)| name.as_str().contains(text))
            .flat_map(|(_, offers)| offers)
            .map(|offer| Found {
                rock: offer.rock.clone(),
                form: offer.form(),
                server: self.label(offer).to_owned(),
            })
            .collect()
    }

    /// What the rockspec of a rock says.
    pub(crate) async fn rockspec(&self, rock: &Rock) -> Result<Rockspec> {
        let offer = self
            .best(rock)
            .ok_or_else(|| Error::Invalid(format!("no server has {rock}")))?;
        let with_spec = self
            .offers
            .get(&rock.name)
            .into_iter()
            .flatten()
            .find(|other| {
                other.rock.version == rock.version
                    && other.server == offer.server
                    && !other.is_complete()
            });
        let offer = with_spec.unwrap_or(offer);
        let content = self.content(offer).await?;
        let (spec, _) = self.open(offer, &content).await?;
        Ok(spec)
    }

    /// The rockspec within a file that holds a rock, and its bytes.
    pub(crate) async fn open(&self, offer: &Offer, content: &Bytes) -> Result<(Rockspec, Bytes)> {
        let read = read_rock(&offer.rock, &offer.file(), content, &self.lua).await;
        read.map_err(|reason| Error::Damaged {
            file: offer.file(),
            server: self.label(offer).to_owned(),
            reason,
        })
    }

    /// The file of an offer.
    pub(crate) async fn content(&self, offer: &Offer) -> Result<Bytes> {
        let file = offer.file();
        let key = (offer.server, file.clone());
        if let Some(known) = self.files.lock().await.get(&key) {
            return Ok(known.clone());
        }
        let (label, place) = &self.servers[offer.server];
        let content = match self.fetcher.read(place, &file, offer.kind()).await {
            Ok(content) => content,
            Err(Miss::Error(error)) => return Err(error),
            Err(Miss::Absent) => {
                return Err(Error::Damaged {
                    file,
                    server: label.clone(),
                    reason: "its manifest names it, but it is not there".into(),
                });
            }
            Err(Miss::Unreachable(reason)) => {
                return Err(Error::ServerUnreachable {
                    request: offer.rock.to_string(),
                    unreachable: Unreachable(vec![(label.clone(), reason)]),
                    log: crate::Log::default(),
                });
            }
        };
        self.files.lock().await.insert(key, content.clone());
        Ok(content)
    }
}

/// The rockspec in a file that holds a rock, and its bytes.
///
/// # Errors
/// Fails with the reason when the file is damaged or holds another rock.
pub(crate) async fn read_rock(
    rock: &Rock,
    file: &str,
    content: &Bytes,
    lua: &Interpreter,
) -> Result<(Rockspec, Bytes), String> {
    let text = if file.ends_with(".rockspec") {
        content.clone()
    } else {
        let wanted = format!("{}-{}.rockspec", rock.name, rock.version);
        zip::extract(content, |name| name == wanted)?.into()
    };
    let spec = Rockspec::read(&String::from_utf8_lossy(&text), lua).await;
    let spec = spec.map_err(|reason| format!("its rockspec: {reason}"))?;
    if spec.info.rock != *rock {
        return Err(format!("it holds {}, not {rock}", spec.info.rock));
    }
    Ok((spec, text))
}

/// The text of a server's manifest. Servers have it packed, which is a thirtieth of its size.
async fn manifest(fetcher: &Fetcher, place: &Place, lua_version: &str) -> Result<String, Miss> {
    let plain = format!("manifest-{lua_version}");
    if matches!(place, Place::Urls(_)) {
        let packed = fetcher
            .read(place, &format!("{plain}.zip"), Kind::Changing)
            .await;
        match packed {
            Ok(content) => {
                if let Ok(text) = zip::extract(&content, |name| name == plain) {
                    return Ok(String::from_utf8_lossy(&text).into_owned());
                }
            }
            Err(Miss::Absent) => {}
            Err(other) => return Err(other),
        }
    }
    let content = match fetcher.read(place, &plain, Kind::Changing).await {
        Err(Miss::Absent) if matches!(place, Place::Urls(_)) => {
            fetcher.read(place, "manifest", Kind::Changing).await?
        }
        other => other?,
    };
    Ok(String::from_utf8_lossy(&content).into_owned())
}
