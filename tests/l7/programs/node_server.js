// Node's http server, as its documentation shows it: `node node_server.js HOST PORT LOG`. What the handler was given is a JSON line a request.
'use strict'
const http = require('http')
const fs = require('fs')

const [host, port, path] = process.argv.slice(2)
const log = fs.openSync(path, 'a')
const note = (entry) => fs.writeSync(log, JSON.stringify(entry) + '\n')

const server = http.createServer((request, response) => {
  const parts = []
  const seen = { port: request.socket.remotePort, method: request.method, target: request.url, host: request.headers.host ?? null }
  let path = null
  try { path = decodeURIComponent(new URL(request.url, 'http://x').pathname) } catch { /* not decodable */ }
  request.on('data', (part) => parts.push(part))
  request.on('end', () => {
    const body = Buffer.concat(parts)
    note({ ...seen, path, length: body.length, body: body.subarray(0, 256).toString('latin1') })
    response.setHeader('Content-Length', 7)
    response.end('served\n')
  })
})
server.on('listening', () => console.log('ready'))
server.listen(Number(port), host)
