//! What a world is made from, so that it can be made again.

use secrecy::{ExposeSecret as _, SecretString};

use crate::assertions::Log;
use crate::backing::GuestHost;
use crate::bootstrap::{self, Trouble};
use crate::clock::Clock;
use crate::db::Db;
use crate::fault::{FaultRule, Faults};
use crate::model::{Model, UserSpec};
use crate::plugin::Plugin;
use crate::seed::Seed;
use crate::sim::{Error, SimOptions};
use crate::world::{Counters, Messages, Rules, User, World};

/// What a world is made from.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) model: Model,
    pub(crate) options: SimOptions,
    /// That of root.
    pub(crate) password: SecretString,
    pub(crate) faults: Vec<FaultRule>,
    pub(crate) plugins: Vec<Plugin>,
}

impl Origin {
    /// Makes the world, and gives its hosts in the order of the model.
    pub(crate) async fn world(&self, guests: &GuestHost) -> Result<(World, Vec<String>), Error> {
        let users = self.model.users.iter().chain(&self.options.users);
        let users: Vec<UserSpec> = users.cloned().collect();
        let problems = self.model.problems(&users);
        if !problems.is_empty() {
            let reason = problems.join("; ");
            return Err(Error::Model { reason });
        }
        let mut world = self.empty();
        let hosts = bootstrap::fill(&mut world, &self.model, &users, guests)
            .await
            .map_err(|trouble| match trouble {
                Trouble::Guest(source) => Error::Guests { source },
                Trouble::Model(reason) => Error::Model { reason },
            })?;
        world.started = world.db.generation();
        for rule in &self.faults {
            world.faults.add(rule.clone());
        }
        Ok((world, hosts))
    }

    fn empty(&self) -> World {
        let root = User {
            name: "root".to_owned(),
            password: self.password.expose_secret().to_owned(),
            sid: String::new(),
        };
        let (model, options) = (&self.model, &self.options);
        World {
            db: Db::new(model.release),
            seed: Seed::new(model.seed),
            clock: Clock::new(),
            users: vec![root],
            sessions: Default::default(),
            listeners: Default::default(),
            disks: Default::default(),
            blobs: Default::default(),
            blocks: Default::default(),
            forgotten: Vec::new(),
            skews: Default::default(),
            granularity: Default::default(),
            crls: Default::default(),
            trusted: Default::default(),
            authorities: Default::default(),
            unrecorded: Default::default(),
            no_restarts_before: 0,
            running: Default::default(),
            stopping: Default::default(),
            leases: Default::default(),
            cancels: Default::default(),
            messages: Messages::default(),
            faults: Faults::new(model.seed),
            plugins: self.plugins.clone(),
            log: Log::new(),
            audit: Default::default(),
            rules: Rules {
                dynamic_memory: options.dynamic_memory,
                login_delay: options.login_delay,
                latency: options.latency,
                agent_delay: options.agent_delay,
                event_delay: options.event_delay,
            },
            started: 0,
            cards: Vec::new(),
            down: Default::default(),
            full: Default::default(),
            next_collection: 0,
            emergency: Default::default(),
            counters: Counters::default(),
        }
    }
}
