//! Socket options of both ends.

use socket2::TcpKeepalive;
use std::time::Duration;

/// How long a connection is silent before the system asks whether the peer is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// How often it asks then.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

pub(crate) fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL)
}
