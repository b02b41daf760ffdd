//! Tells whether rocks can be installed in a tree, and what to do where not.

use std::fmt;

use serde::Serialize;

use crate::luarocks::{Answer, Site};
use crate::{Curator, Error, Result, RocksServer, remedy};

/// What [`Curator::doctor`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// The machine of the tree.
    pub machine: String,
    /// The tree.
    pub tree: String,
    /// The Lua version of the tree.
    pub lua_version: String,
    /// What was looked at, in the order in which an installation needs it.
    pub checks: Vec<Check>,
}

impl Health {
    /// Whether rocks can be installed; those with C code may still need more.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.checks
            .iter()
            .all(|check| check.verdict != Verdict::Failed)
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// What it is about: `luarocks`, `headers`.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// What to do, unless it is good.
    pub remedy: Option<String>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Verdict {
    /// As it has to be.
    Good,
    /// Some rocks or some uses will fail.
    Warning,
    /// Nothing can be installed.
    Failed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Failed => "failed",
        })
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.name, self.verdict, self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, " ({remedy})"),
            None => Ok(()),
        }
    }
}

impl Curator {
    /// Looks whether rocks can be installed: LuaRocks, Lua, headers and compiler, the tree, and
    /// the servers, which are asked in the way that an installation would ask them. For that a
    /// folder of the curator's own is made in the tree; nothing else is changed.
    ///
    /// # Errors
    /// Fails when the machine cannot be asked, or a server is none. What is wrong with the machine
    /// is in the answer.
    pub async fn doctor(&self) -> Result<Health> {
        const OPERATION: &str = "look at the machine";
        let site = self.open()?;
        let found = site.inspect(OPERATION, &[]).await?;
        let lua_version = &self.site().lua_version;
        let mut checks = vec![
            luarocks(&found),
            tree(&found, &self.site().tree),
            unzip(&found),
        ];
        checks.extend(fetching(&found, &self.servers));
        checks.push(interpreter(&found, lua_version));
        checks.push(headers(&found, lua_version));
        checks.push(lock(&found));
        let usable = checks.iter().all(|check| check.verdict != Verdict::Failed);
        if usable {
            checks.push(self.servers_answer(&site, OPERATION).await?);
        }
        Ok(Health {
            machine: site.machine().to_owned(),
            tree: self.site().tree.clone(),
            lua_version: lua_version.clone(),
            checks,
        })
    }

    async fn servers_answer(&self, site: &Site<'_>, operation: &'static str) -> Result<Check> {
        let bad = |verdict: Verdict, message: String| Check {
            name: "servers",
            verdict,
            message,
            remedy: Some("start the server, or take a directory, which needs no network".into()),
        };
        let index = match self.index(site, operation).await {
            Ok(index) => index,
            // What is wrong with a server is what was asked for.
            Err(error @ (Error::BadManifest { .. } | Error::MissingProgram { .. })) => {
                return Ok(bad(Verdict::Failed, error.to_string()));
            }
            Err(error) => return Err(error),
        };
        let readable = index.readable();
        let Some(unreachable) = index.dead() else {
            return Ok(good(
                "servers",
                format!("{} can be read", readable.join(", ")),
            ));
        };
        let mut said: Vec<_> = unreachable
            .iter()
            .map(|(server, reason)| format!("{server} cannot be read: {reason}"))
            .collect();
        if readable.is_empty() {
            return Ok(bad(Verdict::Failed, said.join("; ")));
        }
        // What the others have can be installed.
        said.push(format!("{} can be read", readable.join(", ")));
        Ok(bad(Verdict::Warning, said.join("; ")))
    }
}

fn good(name: &'static str, message: String) -> Check {
    Check {
        name,
        verdict: Verdict::Good,
        message,
        remedy: None,
    }
}

fn tool<'a>(found: &'a Answer, names: &[&str]) -> Option<&'a str> {
    found
        .records()
        .find(|record| record.name == "tool" && names.contains(&record.field(0)))
        .map(|record| record.field(1))
}

fn luarocks(found: &Answer) -> Check {
    let version = found
        .records()
        .find(|record| record.name == "version")
        .map(|record| record.field(0).to_owned());
    match version {
        Some(version) if !version.is_empty() => good("luarocks", version),
        Some(_) => Check {
            name: "luarocks",
            verdict: Verdict::Failed,
            message: "it is there but does not run".into(),
            remedy: Some("run `luarocks --version` on the machine to see why".into()),
        },
        None => Check {
            name: "luarocks",
            verdict: Verdict::Failed,
            message: "it is not installed".into(),
            remedy: Some(remedy::program("luarocks")),
        },
    }
}

fn tree(found: &Answer, tree: &str) -> Check {
    match found.records().find(|record| record.name == "writable") {
        Some(record) if record.field(0) == tree => good("tree", format!("{tree} can be written")),
        Some(record) => good("tree", format!("{tree} can be made in {}", record.field(0))),
        None => Check {
            name: "tree",
            verdict: Verdict::Failed,
            message: format!("{tree} cannot be written"),
            remedy: Some("give it to the login user, or choose another tree".into()),
        },
    }
}

fn unzip(found: &Answer) -> Check {
    match tool(found, &["unzip"]) {
        Some(path) => good("unzip", path.to_owned()),
        None => Check {
            name: "unzip",
            verdict: Verdict::Failed,
            message: "it is not installed; rocks are zip files".into(),
            remedy: Some(remedy::program("unzip")),
        },
    }
}

/// What the servers in use need on the machine.
fn fetching(found: &Answer, servers: &[RocksServer]) -> Option<Check> {
    let sent = servers.iter().any(|server| !server.is_remote());
    if sent && tool(found, &["tar"]).is_none() {
        return Some(Check {
            name: "tar",
            verdict: Verdict::Failed,
            message: "it is not installed; rocks are sent as a tar".into(),
            remedy: Some(remedy::program("tar")),
        });
    }
    if sent && !servers.iter().any(RocksServer::is_remote) {
        return None;
    }
    Some(match tool(found, &["wget", "curl"]) {
        Some(path) => good("download", path.to_owned()),
        None => Check {
            name: "download",
            verdict: Verdict::Warning,
            message: "neither wget nor curl is installed; LuaRocks needs one for https".into(),
            remedy: Some(remedy::program("wget or curl")),
        },
    })
}

fn interpreter(found: &Answer, lua_version: &str) -> Check {
    let lua = found
        .records()
        .find(|record| record.name == "lua" && record.field(1) == lua_version);
    match lua {
        Some(record) => good("lua", record.field(0).to_owned()),
        None => Check {
            name: "lua",
            verdict: Verdict::Warning,
            message: format!(
                "no interpreter of Lua {lua_version} is installed; rocks with C code may not be \
                 built"
            ),
            remedy: Some(remedy::interpreter(lua_version)),
        },
    }
}

/// The header of this Lua version.
fn header<'a>(found: &'a Answer, lua_version: &str) -> Option<&'a str> {
    found
        .records()
        .find(|record| record.name == "header" && record.field(1) == lua_version)
        .map(|record| record.field(0))
}

/// What is missing to build rocks with C code.
pub(crate) fn missing_for_builds(found: &Answer, lua_version: &str) -> Option<String> {
    let compiler = tool(found, &["cc", "gcc"]);
    match (header(found, lua_version), compiler) {
        (Some(_), Some(_)) => None,
        (None, Some(_)) => Some(format!("headers of Lua {lua_version}")),
        (Some(_), None) => Some("C compiler".to_owned()),
        (None, None) => Some(format!("headers of Lua {lua_version} and C compiler")),
    }
}

fn headers(found: &Answer, lua_version: &str) -> Check {
    let Some(missing) = missing_for_builds(found, lua_version) else {
        let header = header(found, lua_version).unwrap_or_default();
        let compiler = tool(found, &["cc", "gcc"]).unwrap_or_default();
        return good("headers", format!("{header} and {compiler}"));
    };
    Check {
        name: "headers",
        verdict: Verdict::Warning,
        message: format!("the machine has no {missing}; rocks with C code cannot be built"),
        remedy: Some(remedy::headers(lua_version)),
    }
}

fn lock(found: &Answer) -> Check {
    match tool(found, &["flock"]) {
        Some(path) => good("flock", path.to_owned()),
        None => Check {
            name: "flock",
            verdict: Verdict::Warning,
            message: "it is not installed; two programs that change the tree at once break it"
                .into(),
            remedy: Some(remedy::program("util-linux")),
        },
    }
}
