#!/usr/bin/env node
// Pictures in, a trained model out, a picture from it: over gRPC through the gateway's one port.
// Usage: node atelier.mjs FOLDER PICTURE.png [PROMPT]     (settings: see README.md)
import { randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const ADDRESS = process.env.ATELIER_ADDRESS ?? "127.0.0.1:8080";
const BASE_MODEL = process.env.ATELIER_BASE_MODEL ?? "Atelier Starter";
const STEPS = Number(process.env.ATELIER_STEPS ?? 100);
const RANK = Number(process.env.ATELIER_RANK ?? 4);

const root = fileURLToPath(new URL("../..", import.meta.url));
const files = ["catalog", "trainer", "generator"].map((name) => `atelier/${name}/v1/${name}_service.proto`);
const { atelier, google } = grpc.loadPackageDefinition(
  protoLoader.loadSync([...files, "google/rpc/error_details.proto", "google/rpc/status.proto"], {
    includeDirs: [join(root, "protos"), join(root, ".imports")],
    keepCase: true,
    longs: Number,
    enums: String,
    oneofs: true,
    defaults: true,
  }),
);

// A picture and what it takes to draw one fit well into this.
const options = { "grpc.max_receive_message_length": 64 * 1024 * 1024 };
const connect = (Service) => new Service(ADDRESS, grpc.credentials.createInsecure(), options);
const catalog = connect(atelier.catalog.v1.CatalogService);
const trainer = connect(atelier.trainer.v1.TrainerService);
const generator = connect(atelier.generator.v1.GeneratorService);

/** How a stream ends that was cut, here or between the gateway and a service that is started again. */
const CUT = [grpc.status.UNAVAILABLE, grpc.status.INTERNAL, grpc.status.CANCELLED, grpc.status.UNKNOWN];

/** A unary call as a promise. */
const call = (client, method, request) =>
  new Promise((resolve, reject) => {
    client[method](request, (error, answer) => (error ? reject(error) : resolve(answer)));
  });

/** Streams all pictures of a folder, each with the caption that lies beside it. */
async function upload(datasetId, folder) {
  const names = (await readdir(folder)).filter((name) => /\.(png|jpe?g|webp)$/i.test(name)).sort();
  let stream;
  const answer = new Promise((resolve, reject) => {
    stream = catalog.UploadImages((error, value) => (error ? reject(error) : resolve(value)));
  });
  answer.catch(() => {}); // it may come while a file is read; whoever awaits it is told all the same
  const send = async (part) => {
    // A stream that is refused is never drained: its answer is an error then.
    if (!stream.write(part)) await Promise.race([new Promise((drained) => stream.once("drain", drained)), answer]);
  };
  await send({ start: { dataset_id: datasetId } });
  for (const name of names) {
    const caption = await readFile(join(folder, `${basename(name, extname(name))}.txt`), "utf8").catch(() => "");
    await send({ file: { filename: name, caption: caption.trim() } });
    let offset = 0;
    for await (const data of createReadStream(join(folder, name))) {
      await send({ chunk: { offset, data } });
      offset += data.length;
    }
  }
  stream.end();
  return answer;
}

/** Every event of a job until it ends. A stream that is cut is taken up again after the last event seen. */
async function* watch(jobId) {
  for (let after = 0, failures = 0; ; ) {
    try {
      for await (const { event } of trainer.WatchTrainingJob({ job_id: jobId, after_sequence: after })) {
        failures = 0;
        if (event.event === "heartbeat") continue;
        after = event.sequence;
        yield event;
        if (["done", "failed", "cancelled"].includes(event.event)) return;
      }
    } catch (error) {
      if (!CUT.includes(error.code) || ++failures > 10) throw error;
    }
    await sleep(500);
  }
}

async function main([folder, picture, prompt = "red apple"]) {
  if (!picture) throw new Error("usage: node atelier.mjs FOLDER PICTURE.png [PROMPT]");
  const { dataset } = await call(catalog, "CreateDataset", { request_id: randomUUID(), name: `from Node ${Date.now()}` });
  const uploaded = await upload(dataset.id, folder);
  for (const { filename, message } of uploaded.refused) console.log(`refused: ${filename}: ${message}`);
  console.log(`${uploaded.accepted.length} pictures in dataset ${dataset.id}`);

  const { models } = await call(catalog, "ListModels", { page_size: 1000 });
  const base = models.find(({ name }) => name === BASE_MODEL);
  if (!base) throw new Error(`there is no model ${BASE_MODEL}`);
  const { job } = await call(trainer, "CreateTrainingJob", {
    request_id: randomUUID(),
    dataset_id: dataset.id,
    base_model_id: base.id,
    method: "TRAINING_METHOD_LORA",
    config: { max_steps: STEPS, lora: { rank: RANK } },
    start: true,
  });

  let model;
  for await (const { event, ...it } of watch(job.id)) {
    if (event === "step") console.log(`step ${it.step.step}/${it.step.total_steps}, loss ${it.step.smoothed_loss.toFixed(4)}`);
    if (event === "failed") throw new Error(`the job failed: ${it.failed.message}`);
    if (event === "cancelled") throw new Error("the job was cancelled");
    if (event === "done") model = it.done;
  }
  console.log(`model ${model.model_id} ${model.model_name}`);

  const request = { request_id: randomUUID(), settings: { model_id: model.model_id, prompt } };
  for await (const answer of generator.Generate(request)) {
    if (answer.event === "step") console.log(`drawing, step ${answer.step.step}/${answer.step.total_steps}`);
    if (answer.event === "image") await writeFile(picture, answer.image.data);
  }
  console.log(`${picture} is drawn`);
}

/** What the server says of an error: the fields that broke a rule, from its details, or its sentence. */
function explain(error) {
  const fields = [];
  for (const bytes of error.metadata?.get("grpc-status-details-bin") ?? []) {
    for (const { type_url, value } of google.rpc.Status.deserialize(bytes).details) {
      if (type_url.endsWith("google.rpc.BadRequest")) fields.push(...google.rpc.BadRequest.deserialize(value).field_violations);
    }
  }
  if (fields.length === 0) return error.details || error.message;
  return fields.map(({ field, description }) => `${field} ${description}`).join("; ");
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  console.error(`error: ${explain(error)}`);
  process.exitCode = 1;
}
