//! One Apache Kafka in a container, as long as standard input stays open: prints
//! `BOOTSTRAP=HOST:PORT` when it is ready, and removes the container at the end of its input, so
//! a test that is killed leaves none behind.
//!
//! KRaft, one broker that is its own controller, the settings of `kafka.sh` as far as a client
//! sees them.

use std::error::Error;
use std::io::Read as _;
use std::net::TcpListener;

use testcontainers::core::{IntoContainerPort as _, WaitFor};
use testcontainers::runners::SyncRunner as _;
use testcontainers::{GenericImage, ImageExt as _};

/// The one that docker-compose.yml names too.
const IMAGE: (&str, &str) = ("apache/kafka", "4.1.1");
/// Its door inside the container.
const PORT: u16 = 9092;
/// As kafka.sh says to its brokers.
const READY: &str = "Kafka Server started";

/// Settings as the image takes them.
const SETTINGS: [(&str, &str); 21] = [
    ("KAFKA_NODE_ID", "1"),
    ("KAFKA_PROCESS_ROLES", "broker,controller"),
    ("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@localhost:9093"),
    ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
    ("KAFKA_LISTENERS", "PLAINTEXT://:9092,CONTROLLER://:9093"),
    ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"),
    ("KAFKA_INTER_BROKER_LISTENER_NAME", "PLAINTEXT"),
    ("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false"),
    ("KAFKA_UNCLEAN_LEADER_ELECTION_ENABLE", "false"),
    ("KAFKA_DEFAULT_REPLICATION_FACTOR", "1"),
    ("KAFKA_MIN_INSYNC_REPLICAS", "1"),
    ("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "1"),
    ("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1"),
    ("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1"),
    ("KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0"),
    ("KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS", "100"),
    ("KAFKA_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS", "1000"),
    ("KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS", "6000"),
    ("KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS", "100"),
    ("KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS", "500"),
    ("KAFKA_HEAP_OPTS", "-Xms256m -Xmx512m"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let host = host(std::env::var("DOCKER_HOST").ok().as_deref());
    // A broker tells its clients where it is, so the port is chosen before it starts. Another
    // process may take it in between; then the start fails, and says so.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let image = GenericImage::new(IMAGE.0, IMAGE.1)
        .with_wait_for(WaitFor::message_on_stdout(READY))
        .with_mapped_port(port, PORT.tcp())
        .with_env_var("KAFKA_ADVERTISED_LISTENERS", format!("PLAINTEXT://{host}:{port}"));
    let image =
        SETTINGS.iter().fold(image, |image, (name, value)| image.with_env_var(*name, *value));
    let container = image.start()?;
    println!("BOOTSTRAP={host}:{port}");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    container.rm()?;
    Ok(())
}

/// Where ports of a container are reached: this machine, unless the engine is on another one.
fn host(engine: Option<&str>) -> String {
    let address = engine.and_then(|it| it.strip_prefix("tcp://"));
    let host = address.and_then(|it| it.rsplit_once(':')).map(|(host, _)| host);
    host.unwrap_or("127.0.0.1").to_owned()
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn a_port_is_reached_where_the_engine_is() {
        let engines = [None, Some("unix:///run/docker.sock"), Some("tcp://engine:2375")];
        assert_eq!(engines.map(host), ["127.0.0.1", "127.0.0.1", "engine"]);
    }
}
