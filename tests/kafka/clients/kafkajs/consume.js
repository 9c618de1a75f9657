// kafkajs as anybody would use it. It reads committed records only unless told otherwise.
import { Kafka, logLevel } from "kafkajs";

const [bootstrap, topic, countMax, seconds, groupId] = process.argv.slice(2);
const text = (bytes) => (bytes == null ? null : bytes.toString("utf8"));
const kafka = new Kafka({ brokers: bootstrap.split(","), logLevel: logLevel.ERROR });
const consumer = kafka.consumer({ groupId });
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
    process.stdout.write(JSON.stringify(line) + "\n");
    count += 1;
    if (count >= Number(countMax)) ended(0);
  },
});
process.exitCode = await end;
clearTimeout(timer);
await consumer.disconnect();
