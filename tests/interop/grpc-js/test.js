// gRPC for JavaScript as client of our server and as server for our client. The methods are described in ../peer.c.
'use strict';

const { spawn } = require('child_process');
const { once } = require('events');
const grpc = require('@grpc/grpc-js');

const SERVICE = '/interop.Test/';
const raw = (value) => value;
let checks = 0;

function check(condition, what) {
  checks++;
  if (!condition) throw new Error(what);
}

function definition(name, requestStream, responseStream) {
  return { path: SERVICE + name, requestStream, responseStream, requestSerialize: raw, requestDeserialize: raw,
    responseSerialize: raw, responseDeserialize: raw };
}

const methods = {
  Unary: definition('Unary', false, false), Status: definition('Status', false, false), Deadline: definition('Deadline', false, false),
  Cancelled: definition('Cancelled', false, false), Nothing: definition('Nothing', false, false),
  ServerStream: definition('ServerStream', false, true), ClientStream: definition('ClientStream', true, false),
  Bidi: definition('Bidi', true, true), Park: definition('Park', true, true),
};

// ---- their server ----

let cancelled = 0;

const handlers = {
  Unary(call, done) {
    const headers = new grpc.Metadata(), trailers = new grpc.Metadata();
    for (const name of ['x-echo', 'x-echo-bin'])
      for (const value of call.metadata.get(name)) {
        headers.add(name, value);
        trailers.add(name.replace('echo', 'trailer'), value);
      }
    call.sendMetadata(headers);
    done(null, call.request, trailers);
  },
  Status(call, done) {
    done({ code: Number(call.request), details: `status ${call.request}: \u00fc %` });
  },
  Deadline(call, done) {
    done(null, Buffer.from(String(Math.floor(call.getDeadline() - Date.now()))));
  },
  Cancelled(call, done) {
    done(null, Buffer.from(String(cancelled)));
  },
  async ServerStream(call) {
    for (let i = 0; i < Number(call.request); i++)
      if (!call.write(Buffer.from(String(i)))) await once(call, 'drain');
    call.end();
  },
  ClientStream(call, done) {
    let count = 0, bytes = 0;
    call.on('data', (message) => { count++; bytes += message.length; });
    call.on('end', () => done(null, Buffer.from(`${count} ${bytes}`)));
  },
  Bidi(call) {
    call.on('data', (message) => call.write(message));
    call.on('end', () => call.end());
  },
  Park(call) {
    call.on('data', () => {});
    call.on('cancelled', () => cancelled++);
  },
};

async function testOurClient() {
  const server = new grpc.Server();
  const offered = Object.assign({}, methods);
  delete offered.Nothing;
  server.addService(offered, handlers);
  const port = await new Promise((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, bound) => error ? reject(error) : resolve(bound)));
  const peer = spawn('tests/interop/peer', ['call', `127.0.0.1:${port}`], { stdio: 'inherit' });
  const [status] = await once(peer, 'exit');
  check(status === 0, 'our client is content');
  server.forceShutdown();
}

// ---- their client ----

async function testOurServer(address) {
  const Client = grpc.makeGenericClientConstructor(methods, 'Test');
  const client = new Client(address, grpc.credentials.createInsecure(), { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 });
  const after = (ms) => ({ deadline: Date.now() + ms });
  const ask = (name, body, options = after(20000), metadata = new grpc.Metadata()) => new Promise((resolve) => {
    const result = {};
    const call = client[name](body, metadata, options, (error, value) => { result.error = error; result.value = value; });
    call.on('metadata', (headers) => { result.headers = headers; });
    call.on('status', (status) => { result.status = status; setImmediate(() => resolve(result)); });
  });
  const gather = async (call) => {
    const got = [];
    for await (const message of call) got.push(message);
    return got;
  };

  for (const size of [0, 1, 1000, 16384, 100000, 3000000]) {
    const body = Buffer.alloc(size, 'abcdefg'), metadata = new grpc.Metadata();
    metadata.add('x-echo', 'a value');
    metadata.add('x-echo-bin', Buffer.from([0, 1, 255, 44]));
    const { value, headers, status } = await ask('Unary', body, after(20000), metadata);
    check(value && body.equals(value), `${size} bytes come back`);
    check(headers.get('x-echo')[0] === 'a value' && headers.get('x-echo-bin')[0].equals(Buffer.from([0, 1, 255, 44])), 'headers');
    check(status.metadata.get('x-trailer')[0] === 'a value', 'trailers');
  }
  for (let code = 1; code <= 16; code++) {
    const { status } = await ask('Status', Buffer.from(String(code)));
    check(status.code === code && status.details === `status ${code}: \u00fc %`, `status ${code}: ${status.code} ${status.details}`);
  }
  check((await ask('Nothing', Buffer.alloc(0))).status.code === grpc.status.UNIMPLEMENTED, 'unknown methods');
  check((await ask('Unary', Buffer.alloc(5000000))).status.code === grpc.status.RESOURCE_EXHAUSTED, 'too large a message');
  const left = Number((await ask('Deadline', Buffer.alloc(0), after(5000))).value);
  check(left > 1000 && left <= 5100, `the deadline arrives: ${left} ms left`);

  const parked = client.Park(new grpc.Metadata(), after(300));
  parked.write(Buffer.from('x'));
  check((await once(parked, 'error'))[0].code === grpc.status.DEADLINE_EXCEEDED, 'the deadline is kept');

  const numbers = await gather(client.ServerStream(Buffer.from('3000'), new grpc.Metadata(), after(20000)));
  check(numbers.length === 3000 && numbers.every((message, i) => String(message) === String(i)), `server stream of ${numbers.length}`);

  const sum = await new Promise((resolve, reject) => {
    const call = client.ClientStream(new grpc.Metadata(), after(20000), (error, value) => error ? reject(error) : resolve(String(value)));
    for (let i = 0; i < 300; i++) call.write(Buffer.alloc(50000));
    call.end();
  });
  check(sum === '300 15000000', `client stream: ${sum}`);

  const both = client.Bidi(new grpc.Metadata(), after(20000));
  for (let i = 0; i < 500; i++) both.write(Buffer.from(`message ${i}`));
  both.end();
  const echoed = await gather(both);
  check(echoed.length === 500 && echoed.every((message, i) => String(message) === `message ${i}`), 'both ways');

  const before = Number((await ask('Cancelled', Buffer.alloc(0))).value);
  const call = client.Park(new grpc.Metadata(), after(20000));
  call.on('error', () => {});
  call.write(Buffer.from('x'));
  await new Promise((resolve) => setTimeout(resolve, 200));
  call.cancel();
  let now = before;
  for (let i = 0; i < 100 && now <= before; i++) {
    now = Number((await ask('Cancelled', Buffer.alloc(0))).value);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  check(now > before, 'the handler hears that the caller is gone');

  const many = await Promise.all(Array.from({ length: 1000 }, (_, i) => ask('Unary', Buffer.from(String(i)))));
  check(many.every((result, i) => String(result.value) === String(i)), '1,000 calls at once');
  client.close();
  console.log(`ok  their client, our server: ${checks} checks`);
}

async function main() {
  const server = spawn('tests/interop/peer', ['serve'], { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    const [address] = await once(server.stdout, 'data');
    await testOurServer(String(address).trim());
    await testOurClient();
  } finally {
    server.kill('SIGKILL');
  }
}

setTimeout(() => { console.log('FAILED: it took more than 100 seconds'); process.exit(1); }, 100000).unref();
main().then(() => process.exit(0), (error) => { console.log('FAILED:', error.message); process.exit(1); });
