// Writes src/types.ts from docs/asyncapi.json; with --check it only says whether that would change anything.
import { readFileSync, writeFileSync } from "node:fs";

const file = new URL("../src/types.ts", import.meta.url);
const document = JSON.parse(readFileSync(new URL("../../../docs/asyncapi.json", import.meta.url), "utf8"));
const { schemas, messages } = document.components;
const SCALARS = { integer: "number", number: "number", string: "string", boolean: "boolean", null: "null" };

const nameOf = (reference) => reference.slice(reference.lastIndexOf("/") + 1);
const comment = (text, indent = "") => (text ? `${indent}/** ${text.replaceAll("\n", `\n${indent} * `)} */\n` : "");

function typeOf(schema) {
  if (schema.$ref) return nameOf(schema.$ref);
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const options = schema.anyOf ?? schema.oneOf;
  if (options) return options.map(typeOf).join(" | ");
  const kinds = [schema.type].flat();
  // What may be an object or something else may be anything.
  return kinds.length > 2 ? "unknown" : kinds.map((kind) => typeOfKind(kind, schema)).join(" | ");
}

function typeOfKind(kind, schema) {
  if (kind === "array") return `Array<${typeOf(schema.items)}>`;
  if (kind === "object") return `Record<string, ${typeOfValues(schema.additionalProperties)}>`;
  return SCALARS[kind];
}

function typeOfValues(schema) {
  return schema?.type || schema?.$ref ? typeOf(schema) : "unknown";
}

function declaration([name, schema]) {
  if (!schema.properties) return `${comment(schema.description)}export type ${name} = ${typeOf(schema)};\n`;
  const required = new Set(schema.required);
  const members = Object.entries(schema.properties).map(([member, of]) => {
    const optional = required.has(member) ? "" : "?";
    return `${comment(of.description, "  ")}  ${member}${optional}: ${typeOf(of)};\n`;
  });
  return `${comment(schema.description)}export interface ${name} {\n${members.join("")}}\n`;
}

function tagged(tag) {
  return Object.values(messages)
    .filter((message) => message.tags[0].name === tag)
    .map(({ title }) => title);
}

function union(name, text, members) {
  return `/** ${text} */\nexport type ${name} =\n${members.map((one) => `  | ${one}`).join("\n")};\n`;
}

const answers = tagged("Answers").filter((name) => name !== "Healthy");
const events = tagged("Events");
const known = events.filter((name) => name !== "ApplicationEvent");
const source = [
  "// Written by scripts/types.mjs from docs/asyncapi.json. Do not edit.\n",
  ...Object.entries(schemas).map(declaration),
  union("ClientFrame", "What a client says.", tagged("Commands")),
  union("KnownEvent", "What the server itself tells: `type` says which `data` it has.", known),
  union("ServerFrame", "What the server says.", [...answers, ...events]),
].join("\n");

if (!process.argv.includes("--check")) writeFileSync(file, source);
else if (readFileSync(file, "utf8") !== source) {
  console.error("The protocol has changed: `just asyncapi` writes src/types.ts anew");
  process.exitCode = 1;
}
