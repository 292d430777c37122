const ms = require('ms');
const kleur = require('kleur');
if (process.argv[2] === '--once') {
  console.log(ms('2 days'), typeof kleur.red, process.getuid());
} else {
  require('http').createServer((req, res) => res.end(String(ms('1h')) + '\n')).listen(3000);
}
