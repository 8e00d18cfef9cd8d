// Node's http, as its documentation shows it: node_client.js BASE PATH… asks for each path on kept connections. Prints a JSON list of
// statuses; in place of one that did not come stands the code of the error.
'use strict';
const http = require('node:http');

const [base, ...paths] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function ask(path) {
  return new Promise((done) => {
    const request = http.get(base + path, { agent, timeout: 5000 }, (answer) => {
      answer.resume();
      answer.on('end', () => done(answer.statusCode));
      answer.on('error', (error) => done(error.code));
    });
    request.on('timeout', () => request.destroy(Object.assign(new Error(), { code: 'ETIMEDOUT' })));
    request.on('error', (error) => done(error.code));
  });
}

(async () => {
  const found = [];
  for (const path of paths) found.push(await ask(path));
  console.log(JSON.stringify(found));
  agent.destroy();
})();
