//! How RocksDB is set up, with the reason for each number.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, LogLevel,
    Options, WriteOptions,
};

/// Batches by their first sequence. Persisted: frozen.
pub(crate) const JOURNAL: &str = "journal";
/// Keyed state. Persisted: frozen.
pub(crate) const STATE: &str = "state";
/// Telemetry records by position. Persisted: frozen.
pub(crate) const TELEMETRY: &str = "telemetry";
/// Undecodable records by hash. Persisted: frozen.
pub(crate) const QUARANTINE: &str = "quarantine";
/// Head, state position and what the directory is. Persisted: frozen.
pub(crate) const META: &str = "meta";

const MIB: usize = 1024 * 1024;
/// Shared by all families: the write-back cache and the page cache hold what is hot.
const BLOCK_CACHE_BYTES: usize = 8 * MIB;
/// A start replays at most this much, about 0.2 s.
const WAL_BYTES_MAX: u64 = 64 * MIB as u64;

/// Options of the database as a whole.
pub(crate) fn database() -> Options {
    let mut options = Options::default();
    // A torn record at the very end was never answered and is cut off; damage anywhere else is
    // an error. The default (point in time) would drop everything behind a flipped bit.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_max_background_jobs(2);
    options.set_max_open_files(256);
    options.set_max_file_opening_threads(1);
    options.set_skip_stats_update_on_db_open(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(MIB);
    options.set_log_level(LogLevel::Warn);
    options.set_bytes_per_sync(MIB as u64);
    options
}

/// The families with their options.
pub(crate) fn families() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
    [JOURNAL, STATE, TELEMETRY, QUARANTINE, META, "default"]
        .map(|name| ColumnFamilyDescriptor::new(name, family(name, &cache)))
        .into()
}

/// One family's options, for making it anew.
pub(crate) fn alone(name: &str) -> Options {
    family(name, &Cache::new_lru_cache(BLOCK_CACHE_BYTES))
}

fn family(name: &str, cache: &Cache) -> Options {
    let mut options = Options::default();
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_format_version(5);
    options.set_compression_type(DBCompressionType::Lz4);
    match name {
        // Keys only grow, so files never overlap and a compaction moves them without rewriting.
        JOURNAL | TELEMETRY => {
            options.set_write_buffer_size(16 * MIB);
            options.set_target_file_size_base(16 * MIB as u64);
            table.set_block_size(16 * 1024);
        }
        // The same keys are rewritten by every batch: a larger memtable keeps only the last
        // value of each when it is flushed.
        STATE => {
            options.set_write_buffer_size(32 * MIB);
            table.set_bloom_filter(10.0, false);
        }
        _ => {
            options.set_write_buffer_size(MIB);
        }
    }
    options.set_block_based_table_factory(&table);
    options
}

/// Durable before it is answered.
pub(crate) fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}
