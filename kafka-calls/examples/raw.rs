//! What reading a topic costs with nothing done to it: by rdkafka's `poll`, by runs, and by `poll`
//! with each record produced again. The ceiling that other readers are held against.
//!
//! `cargo run --example raw -- BROKERS TOPIC poll|batches|produce` prints one JSON line.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_calls::{Batches, Record};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

type Outcome<T> = Result<T, Box<dyn Error>>;

const WITHIN: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Read {
    records: u64,
    bytes: u64,
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic, mode] = args.as_slice() else {
        return Err("usage: raw BROKERS TOPIC poll|batches|produce".into());
    };
    let consumer = consumer(brokers)?;
    let partitions = partitions(&consumer, topic)?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    let (began, cpu) = (Instant::now(), cpu_s()?);
    consumer.assign(&assignment)?;
    let read = match mode.as_str() {
        "poll" => poll(&consumer, partitions, |_| Ok(()))?,
        "batches" => batches(&consumer, topic, partitions)?,
        "produce" => produce(&consumer, partitions, brokers, topic)?,
        other => return Err(format!("no such mode: {other}").into()),
    };
    let (cpu, wall) = (cpu_s()? - cpu, began.elapsed().as_secs_f64());
    println!(
        "{{\"contender\":\"raw\",\"mode\":\"{mode}\",\"records\":{},\"value_bytes\":{},\
         \"wall_s\":{wall:.3},\"cpu_s\":{cpu:.3},\"peak_rss_mb\":{:.0}}}",
        read.records,
        read.bytes,
        peak_rss_mb()?
    );
    Ok(())
}

fn consumer(brokers: &str) -> Outcome<Arc<BaseConsumer>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "raw");
    config.set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    config.set("fetch.queue.backoff.ms", "10").set("queued.max.messages.kbytes", "32768");
    Ok(Arc::new(config.create()?))
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Outcome<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), WITHIN)?;
    let found = metadata.topics().first().map_or(0, |it| it.partitions().len());
    Ok(i32::try_from(found)?)
}

fn poll(
    consumer: &BaseConsumer,
    partitions: i32,
    mut each: impl FnMut(&[u8]) -> Outcome<()>,
) -> Outcome<Read> {
    let (mut read, mut ended) = (Read::default(), 0);
    while ended < partitions {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                let value = message.payload().unwrap_or_default();
                read.records += 1;
                read.bytes += value.len() as u64;
                each(value)?;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(read)
}

fn batches(consumer: &Arc<BaseConsumer>, topic: &str, partitions: i32) -> Outcome<Read> {
    let (mut read, mut lanes) = (Read::default(), Vec::new());
    for partition in 0..partitions {
        let split = consumer.split_partition_queue(topic, partition).ok_or("no such partition")?;
        let lane = Batches::of(consumer, topic, partition).ok_or("no such partition")?;
        lanes.push((split, lane, false));
    }
    while lanes.iter().any(|(_, _, ended)| !ended) {
        // Serves what is not a record, and what was fetched before the queues were split.
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(1)) {
            read.records += 1;
            read.bytes += message.payload_len() as u64;
        }
        for (_, lane, ended) in lanes.iter_mut().filter(|(_, _, ended)| !ended) {
            lane.take(usize::MAX, |record| match record {
                Record::At { value, .. } => {
                    read.records += 1;
                    read.bytes += value.len() as u64;
                }
                Record::End => *ended = true,
                Record::Failed(_) => {}
            });
        }
    }
    Ok(read)
}

fn produce(consumer: &BaseConsumer, partitions: i32, brokers: &str, topic: &str) -> Outcome<Read> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("acks", "all").set("linger.ms", "20");
    config.set("batch.size", "524288").set("queue.buffering.max.messages", "500000");
    let producer: BaseProducer = config.create()?;
    let out = format!("{topic}.copy");
    let admin: AdminClient<DefaultClientContext> = config.create()?;
    let copy = NewTopic::new(&out, partitions, TopicReplication::Fixed(1));
    pollster::block_on(admin.create_topics([&copy], &AdminOptions::new()))?;
    let read = poll(consumer, partitions, |value| {
        loop {
            match producer.send(BaseRecord::<(), [u8]>::to(&out).payload(value)) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    producer.poll(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    })?;
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
    }
    Ok(read)
}

/// CPU seconds of this process, all threads; Linux counts in hundredths.
fn cpu_s() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("no such format")?;
    let ticks: Vec<&str> = fields.split(' ').skip(11).take(2).collect();
    let ticks: Result<Vec<f64>, _> = ticks.iter().map(|it| it.parse()).collect();
    Ok(ticks?.iter().sum::<f64>() / 100.0)
}

fn peak_rss_mb() -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|it| it.starts_with("VmHWM:")).ok_or("no such field")?;
    let kib: String = line.chars().filter(char::is_ascii_digit).collect();
    Ok(kib.parse::<f64>()? / 1024.0)
}
