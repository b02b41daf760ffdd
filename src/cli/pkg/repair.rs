//! How a tree that is not as it should be is put right again.

use std::path::Path;

use bioxen_curator::{Curator, Rock, Verified};

use super::target::shell_word;

/// The commands that put a tree right, each with what it is for. The target is what the user says to name
/// the tree.
pub(super) async fn remedies(
    curator: &Curator,
    found: &Verified,
    lock: Option<&Path>,
    target: &str,
) -> anyhow::Result<Vec<String>> {
    let mut remedies = Vec::new();
    let spoilt: Vec<_> = found.changed.iter().chain(&found.missing).collect();
    if !spoilt.is_empty() {
        let owners = owners(curator, &spoilt).await?;
        if owners.is_empty() {
            remedies.push(format!(
                "`bioxen pkg{target} undo` returns to the rocks before the last change"
            ));
        } else {
            let names = owners.iter().map(|rock| rock.name.as_str());
            let exact = owners
                .iter()
                .map(|rock| format!("'{} == {}'", rock.name, rock.version));
            remedies.push(format!(
                "`bioxen pkg{target} remove --force {}` and `bioxen pkg{target} install {}` bring the files as \
                 they were",
                names.collect::<Vec<_>>().join(" "),
                exact.collect::<Vec<_>>().join(" ")
            ));
        }
    }
    if !found.foreign.is_empty() {
        remedies.push(format!(
            "foreign files are nobody's: remove them from {}",
            curator.site().tree
        ));
    }
    if let (false, Some(lock)) = (found.unlocked.is_empty(), lock) {
        remedies.push(format!(
            "`bioxen pkg{target} install --locked {}` installs what is locked",
            shell_word(&lock.display().to_string())
        ));
    }
    if !found.extra.is_empty() {
        let names = found.extra.iter().map(|rock| rock.name.as_str());
        remedies.push(format!(
            "`bioxen pkg{target} remove {}` removes what is not locked",
            names.collect::<Vec<_>>().join(" ")
        ));
    }
    Ok(remedies)
}

/// The rocks that files of a tree are of, as far as their paths tell.
async fn owners(curator: &Curator, files: &[&String]) -> anyhow::Result<Vec<Rock>> {
    let mut owners = Vec::new();
    for rock in curator.list().await? {
        let kept = format!("/{}/{}/", rock.name, rock.version);
        let is_kept = |file: &&&String| file.contains("/rocks-") && file.contains(&kept);
        // What a spoilt rock can no longer tell is no reason to tell nothing.
        let info = curator.info(&rock.name).await;
        let modules = info.map(|info| info.modules).unwrap_or_default();
        let is_module =
            |file: &&&String| module(file).is_some_and(|module| modules.contains(&module));
        if files.iter().any(|file| is_kept(&file) || is_module(&file)) {
            owners.push(rock);
        }
    }
    Ok(owners)
}

/// The module that a file of a tree is, by its path: `share/lua/5.4/a/b.lua` is `a.b`.
fn module(file: &str) -> Option<String> {
    let below = ["share/lua/", "lib/lua/"]
        .iter()
        .find_map(|place| file.strip_prefix(place))?;
    let (_version, path) = below.split_once('/')?;
    let (name, _kind) = path.rsplit_once('.')?;
    let name = name.strip_suffix("/init").unwrap_or(name);
    Some(name.replace('/', "."))
}

#[cfg(test)]
mod tests {
    use super::module;

    #[test]
    fn files_are_modules_by_their_paths() {
        for (file, expected) in [
            ("share/lua/5.4/a/b.lua", Some("a.b")),
            ("share/lua/5.4/a/init.lua", Some("a")),
            ("lib/lua/5.1/lpeg.so", Some("lpeg")),
            ("lib/luarocks/rocks-5.4/a/1.0-1/rock_manifest", None),
            ("bin/a", None),
        ] {
            assert_eq!(module(file).as_deref(), expected, "{file}");
        }
    }
}
