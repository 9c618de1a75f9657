// kafkajs as anybody would use it. It reads committed records only unless told otherwise.
// With the address of a schema registry it decodes each value by it, too.
import { SchemaRegistry, SchemaType } from "@kafkajs/confluent-schema-registry";
import avsc from "avsc";
import { Kafka, logLevel } from "kafkajs";

const [bootstrap, topic, countMax, seconds, groupId, registry] = process.argv.slice(2);
const text = (bytes) => (bytes == null ? null : bytes.toString("utf8"));
const kafka = new Kafka({ brokers: bootstrap.split(","), logLevel: logLevel.ERROR });
const consumer = kafka.consumer({ groupId });
// avsc refuses a long that a double cannot hold, unless it is told how to keep one.
const long = avsc.types.LongType.__with({
  fromBuffer: (bytes) => bytes.readBigInt64LE(),
  toBuffer: (n) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(n);
    return bytes;
  },
  fromJSON: BigInt,
  toJSON: String,
  isValid: (n) => typeof n === "bigint",
  compare: (a, b) => (a === b ? 0 : a < b ? -1 : 1),
});
const typeHook = (schema) => ((schema.type ?? schema) === "long" ? long : undefined);
const schemas = registry && new SchemaRegistry({ host: registry }, { [SchemaType.AVRO]: { typeHook } });
const plain = (_, it) => {
  if (typeof it !== "bigint") return it;
  return Number.isSafeInteger(Number(it)) ? Number(it) : String(it);
};
let count = 0;
let ended;
const end = new Promise((resolve) => (ended = resolve));
const timer = setTimeout(() => ended(1), Number(seconds) * 1000);

await consumer.connect();
await consumer.subscribe({ topics: [topic], fromBeginning: true });
await consumer.run({
  eachMessage: async ({ partition, message }) => {
    if (count >= Number(countMax)) return;
    const headers = Object.entries(message.headers ?? {}).map(([name, it]) => [name, text(it)]);
    const line = {
      topic,
      partition,
      offset: Number(message.offset),
      key: text(message.key),
      headers: Object.fromEntries(headers),
      value_base64: message.value?.toString("base64") ?? null,
    };
    if (schemas) line.value = await schemas.decode(message.value);
    process.stdout.write(JSON.stringify(line, plain) + "\n");
    count += 1;
    if (count >= Number(countMax)) ended(0);
  },
});
process.exitCode = await end;
clearTimeout(timer);
await consumer.disconnect();
