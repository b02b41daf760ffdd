use super::*;

/// A world written as `name version: need; need` per line; installed rocks begin with `*`.
#[derive(Default)]
struct World {
    provided: BTreeMap<RockName, RockVersion>,
    offers: BTreeMap<RockName, Vec<RockVersion>>,
    needs: HashMap<(RockName, String), Vec<RockRequest>>,
    installed: BTreeMap<RockName, (RockVersion, Vec<RockRequest>)>,
    renew: BTreeSet<RockName>,
}

fn name(text: &str) -> RockName {
    RockName::new(text).unwrap()
}

impl World {
    fn new(text: &str) -> Self {
        let mut world = Self::default();
        let lua = RockVersion::new("5.4-1").unwrap();
        world.provided.insert(name("lua"), lua);
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (rock, needs) = line.split_once(':').unwrap();
            let needs: Vec<RockRequest> = needs
                .split(';')
                .map(str::trim)
                .filter(|need| !need.is_empty())
                .map(|need| need.parse().unwrap())
                .collect();
            let there = rock.strip_prefix('*');
            let (rock, version) = there.unwrap_or(rock).split_once(' ').unwrap();
            let version = RockVersion::new(version).unwrap();
            if there.is_some() {
                world.installed.insert(name(rock), (version, needs));
                continue;
            }
            let key = (name(rock), version.as_str().to_owned());
            world.needs.insert(key, needs);
            let versions = world.offers.entry(name(rock)).or_default();
            versions.push(version);
            versions.sort();
        }
        world
    }

    fn resolve(&self, requests: &[&str]) -> Result<String, Stop> {
        let known = Known {
            provided: &self.provided,
            offers: &self.offers,
            needs: &self.needs,
            installed: &self.installed,
            renew: &self.renew,
        };
        let requests: Vec<_> = requests.iter().map(|text| text.parse().unwrap()).collect();
        let solution = resolve(&known, &requests)?;
        let rocks: Vec<_> = solution.iter().map(Rock::to_string).collect();
        Ok(rocks.join(", "))
    }

    fn conflict(&self, requests: &[&str]) -> (String, Option<String>, Cause) {
        match self.resolve(requests) {
            Err(Stop::Conflict(conflict)) => {
                let Conflict { need, by, cause } = *conflict;
                (need.to_string(), by.map(|by| by.to_string()), cause)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn each_rock_comes_after_what_it_needs_in_its_newest_version() {
    let world = World::new(
        "a 1-1: b; c >= 1
         b 1-1: c < 2
         b 2-1: c
         c 1-1:
         c 3-1:",
    );
    assert_eq!(world.resolve(&["a"]).unwrap(), "c 3-1, b 2-1, a 1-1");
    assert_eq!(world.resolve(&["c", "a"]).unwrap(), "c 3-1, b 2-1, a 1-1");
}

#[test]
fn an_older_version_is_taken_where_the_newest_do_not_fit_together() {
    let world = World::new(
        "a 1-1: b; c < 2
         b 1-1: c
         b 2-1: c >= 2
         c 1-1:
         c 2-1:",
    );
    assert_eq!(world.resolve(&["a"]).unwrap(), "c 1-1, b 1-1, a 1-1");
    let world = World::new(
        "a 1-1: lua < 5.4
         a 0-1: lua",
    );
    assert_eq!(world.resolve(&["a"]).unwrap(), "a 0-1");
}

#[test]
fn what_is_installed_stays_unless_it_does_not_fit_or_is_to_be_renewed() {
    let mut world = World::new(
        "a 1-1: b
         b 1-1:
         b 2-1:
        *b 1-1:",
    );
    assert_eq!(world.resolve(&["a"]).unwrap(), "b 1-1, a 1-1");
    assert_eq!(world.resolve(&["b"]).unwrap(), "b 1-1");
    assert_eq!(world.resolve(&["b > 1"]).unwrap(), "b 2-1");
    world.renew.insert(name("b"));
    assert_eq!(world.resolve(&["b"]).unwrap(), "b 2-1");
    let newer = World::new("b 1-1:\n*b 3-1:");
    assert_eq!(newer.resolve(&["b"]).unwrap(), "b 3-1");
}

#[test]
fn what_other_rocks_of_the_tree_need_is_not_broken() {
    let world = World::new(
        "b 1-1:
         b 1.5-1:
         b 2-1:
        *b 1-1:
        *other 1-1: b < 2",
    );
    assert_eq!(world.resolve(&["b > 1"]).unwrap(), "b 1.5-1");
    let (need, by, cause) = world.conflict(&["b >= 2"]);
    assert_eq!(need, "b < 2");
    assert_eq!(by.as_deref(), Some("other 1-1"));
    assert!(matches!(cause, Cause::Taken(_)), "{cause:?}");
}

#[test]
fn the_reason_is_that_of_the_first_choice() {
    let world = World::new(
        "a 1-1: nothere >= 2
         b 1-1: lua < 5.2
         c 1-1: d < 2
         d 1-1:
         d 2-1:",
    );
    let (need, by, cause) = world.conflict(&["nope"]);
    assert_eq!(
        (need.as_str(), by, cause),
        ("nope", None, Cause::Absent(Vec::new()))
    );
    let (need, by, _) = world.conflict(&["a"]);
    assert_eq!(
        (need.as_str(), by.as_deref()),
        ("nothere >= 2", Some("a 1-1"))
    );
    let (need, _, cause) = world.conflict(&["b"]);
    assert_eq!(need, "lua < 5.2");
    assert!(matches!(cause, Cause::Provided(_)));
    let (need, by, cause) = world.conflict(&["d >= 2", "c"]);
    assert_eq!((need.as_str(), by.as_deref()), ("d < 2", Some("c 1-1")));
    assert!(matches!(cause, Cause::Taken(_)));
    assert!(matches!(world.conflict(&["d > 5"]).2, Cause::Absent(versions) if versions.len() == 2));
}

#[test]
fn circles_end_and_unread_rockspecs_are_asked_for_together() {
    let world = World::new("a 1-1: b\nb 1-1: a");
    assert_eq!(world.resolve(&["a"]).unwrap(), "b 1-1, a 1-1");
    let mut world = World::new("a 1-1: b; c\nb 1-1:\nc 1-1:");
    world.needs.retain(|(rock, _), _| rock.as_str() == "a");
    match world.resolve(&["a"]) {
        Err(Stop::Unread(rocks)) => {
            let rocks: Vec<_> = rocks.iter().map(Rock::to_string).collect();
            assert_eq!(rocks, ["b 1-1", "c 1-1"]);
        }
        other => panic!("{other:?}"),
    }
}
