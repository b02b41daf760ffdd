// The npm package xen-api: prints the seconds of one run of a case.
const { createClient } = require(process.argv[2] + "/node_modules/xen-api");
const [url, kind, count] = [process.argv[3], process.argv[4], Number(process.argv[5])];

async function main() {
  const client = createClient({
    url,
    auth: { user: "root", password: "p" },
    allowUnauthorized: true,
    watchEvents: false,
  });
  await client.connect();
  await client.call("host.get_all");
  const start = process.hrtime.bigint();
  if (kind === "records") {
    const records = await client.call("VM.get_all_records");
    if (Object.keys(records).length !== count) throw new Error("records are missing");
  } else if (kind === "sequential") {
    for (let i = 0; i < count; i++) await client.call("host.get_all");
  } else {
    let left = count;
    const work = async () => {
      while (left-- > 0) await client.call("host.get_all");
    };
    await Promise.all(Array.from({ length: 20 }, work));
  }
  console.log(Number(process.hrtime.bigint() - start) / 1e9);
  process.exit(0);
}
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
