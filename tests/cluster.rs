//! Several nodes over a real Redis, which each test starts for itself: they act as one server, and go on
//! when Redis does not.

#![allow(clippy::unwrap_used, reason = "in a test that is how to fail")]

#[path = "cluster/behaviour.rs"]
mod behaviour;
#[path = "cluster/drain.rs"]
mod drain;
#[path = "cluster/failover.rs"]
mod failover;
#[path = "cluster/faults.rs"]
mod faults;
#[path = "cluster/forms.rs"]
mod forms;
#[path = "cluster/load.rs"]
mod load;
#[path = "cluster/nodes.rs"]
mod nodes;
#[path = "cluster/order.rs"]
mod order;
#[path = "cluster/recovery.rs"]
mod recovery;
#[path = "cluster/redis.rs"]
mod redis;
#[path = "cluster/requests.rs"]
mod requests;
#[path = "cluster/servers.rs"]
mod servers;
#[path = "cluster/shed.rs"]
mod shed;
mod support;
