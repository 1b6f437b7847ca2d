// The script of kafkawire's TestForeignClients by kafkajs: kafkajs.js BOOTSTRAP TOPIC CODEC,…
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs')

CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')

const [at, topic, list] = process.argv.slice(2)
const codecs = list.split(',')
const types = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy }
const kafka = new Kafka({ clientId: 'matrix', brokers: [at], logLevel: logLevel.ERROR, requestTimeout: 60000 })
const padding = ' ' + 'x'.repeat(100)

async function produce(values, codec = 'none') {
  const p = kafka.producer()
  await p.connect()
  await p.send({ topic, acks: -1, compression: types[codec], messages: values.map((v) => ({ key: v, value: v + padding })) })
  await p.disconnect()
}

// kafkajs reads what is committed unless told otherwise.
async function consume(word, count, groupId, of = topic) {
  const c = kafka.consumer({ groupId, sessionTimeout: 60000, rebalanceTimeout: 60000 })
  await c.connect()
  await c.subscribe({ topics: [of], fromBeginning: true })
  let got = 0
  const next = new Map()
  await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(word + ': too few came')), 90000).unref()
    c.on(c.events.CRASH, (e) => reject(e.payload.error))
    c.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => {
        if (got === count) return
        console.log(word, message.value.toString().split(' ')[0])
        next.set(partition, String(BigInt(message.offset) + 1n))
        if (++got === count) resolve()
      },
    }).catch(reject)
  })
  await c.commitOffsets([...next].map(([partition, offset]) => ({ topic: of, partition, offset })))
  await c.disconnect()
}

async function main() {
  console.log('version', require('kafkajs/package.json').version)
  for (const codec of codecs) await produce([...Array(20).keys()].map((i) => `${codec}-${i}`), codec)
  await consume('read', 20 * codecs.length, topic)
  await produce(['again-0'])
  await consume('again', 1, topic)

  const p = kafka.producer({ transactionalId: topic, idempotent: true, maxInFlightRequests: 1 })
  await p.connect()
  for (const word of ['aborted', 'committed']) {
    const tx = await p.transaction()
    await tx.send({ topic: topic + '-out', messages: [...Array(5).keys()].map((i) => ({ value: `${word}-${i}`, partition: 0 })) })
    if (word === 'aborted') {
      await tx.abort()
      continue
    }
    await tx.sendOffsets({ consumerGroupId: topic + '-moved', topics: [{ topic, partitions: [{ partition: 0, offset: '7' }] }] })
    await tx.commit()
  }
  await p.disconnect()
  await consume('committed', 5, topic + '-reader', topic + '-out')
}

main().then(() => process.exit(0), (err) => { console.error(err); process.exit(1) })
