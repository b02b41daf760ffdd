//! Programs that call the server, and how many calls they may make. Limits delay calls on a server
//! that has them; here they are written down.

use super::{Table, done, plain};
use crate::dispatch::Handler::Now;
use crate::failure::{Failure, Reply};
use crate::value::{NULL_REF, Value};
use crate::world::{Call, World};

pub(crate) const TABLE: Table = &[
    (
        "Caller.add_group",
        Now(|world, call| regroup(world, call, true)),
    ),
    (
        "Caller.remove_group",
        Now(|world, call| regroup(world, call, false)),
    ),
    (
        "Caller.query_token_usage",
        Now(|world, call| used(world, call, Value::Float(0.0))),
    ),
    (
        "Caller.query_call_count",
        Now(|world, call| used(world, call, Value::Int(0))),
    ),
    (
        "Caller.query_group_token_usage",
        Now(|_, _| Ok(Value::Float(0.0))),
    ),
    (
        "Caller.query_group_call_count",
        Now(|_, _| Ok(Value::Int(0))),
    ),
    (
        "Caller.query_all_usage",
        Now(|_, _| Ok(Value::Array(Vec::new()))),
    ),
    (
        "Rate_limit.add_caller",
        Now(|world, call| limit(world, call, true)),
    ),
    (
        "Rate_limit.remove_caller",
        Now(|world, call| limit(world, call, false)),
    ),
    ("Rate_limit.set_burst_size", Now(set_positive)),
    ("Rate_limit.set_fill_rate", Now(set_positive)),
];

fn regroup(world: &mut World, call: &Call, member: bool) -> Reply {
    let (caller, group) = (call.text(0), call.text(1));
    let mut groups = world.db.list("Caller", caller, "groups")?;
    groups.retain(|known| known != group);
    if member {
        groups.insert(0, group.to_owned());
    }
    world
        .db
        .set("Caller", caller, "groups", Value::strings(groups))?;
    done()
}

fn used(world: &mut World, call: &Call, amount: Value) -> Reply {
    world.db.require("Caller", call.text(0))?;
    Ok(amount)
}

fn limit(world: &mut World, call: &Call, limited: bool) -> Reply {
    let (limit, caller) = (call.text(0), call.text(1));
    world.db.require("Rate_limit", limit)?;
    let by = if limited { limit } else { NULL_REF };
    world.db.set("Caller", caller, "rate_limit", by)?;
    done()
}

fn set_positive(world: &mut World, call: &Call) -> Reply {
    world.db.require("Rate_limit", call.text(0))?;
    if let Value::Float(number) = call.arg(1)
        && number <= 0.0
    {
        let field = call.message.name.trim_start_matches("set_");
        return Err(Failure::invalid_value(field, &number.to_string()));
    }
    plain(world, call)
}
