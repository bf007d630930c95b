// A simulator of one's own in JavaScript: it reads the .proto itself, nothing is generated.
//   npm install @grpc/grpc-js @grpc/proto-loader
//   node server.js 127.0.0.1:7001 PROTOS     (PROTOS: the folder `protos` of vistaflow)
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, protos] = process.argv.slice(2);
const loaded = loader.loadSync("vistaflow/api/simulator/v1/simulator.proto", {
  includeDirs: [protos, `${protos}/third_party`],
  keepCase: true,
  enums: String,
});
const { SimulatorService } = grpc.loadPackageDefinition(loaded).vistaflow.api.simulator.v1;

function evaluate(call, answer) {
  const value = (name) => call.request.parameters[name].numberValue;
  const load = value("Width") * value("Load");
  if (load > 5000) {
    answer(null, { failure: "FAILURE_NO_CONVERGENCE", message: "the output saturates" });
  } else {
    answer(null, { responses: { Gain: 20 * Math.log10(load), bandwidth: 250 / load } });
  }
}

const server = new grpc.Server();
server.addService(SimulatorService.service, { Evaluate: evaluate });
server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
  console.log(`listening on ${address}`);
});
