/** Compares answers with what `/openapi.json` says of them. */

import assert from "node:assert/strict";
import Ajv from "ajv/dist/2020.js";

/** Steps into a JSON document, following references. */
function resolve(document, node) {
  if (node?.$ref === undefined) return node;
  return node.$ref.slice(2).split("/").reduce((at, name) => at[name], document);
}

/** A description of an API. */
export class Api {
  constructor(document) {
    this.document = document;
    this.ajv = new Ajv({ strict: false, validateFormats: false }).addSchema(document, "api");
  }

  /** Every endpoint, as in `{ method: "GET", path: "/v1/jobs/{id}", responses }`. */
  get endpoints() {
    return Object.entries(this.document.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, { responses }]) => ({ method: method.toUpperCase(), path, responses })),
    );
  }

  /** Checks that an answer of an endpoint is one that is described. */
  assertDescribed({ method, path, responses }, answer) {
    const where = `${method} ${path}: ${answer.status}`;
    const response = resolve(this.document, responses[answer.status]);
    assert.ok(response, `${where} is not described`);
    if (!response.content) return;
    const type = answer.headers["content-type"]?.split(";")[0];
    const described = Object.keys(response.content);
    assert.ok(described.includes(type) || described.includes(type?.replace(/\/.*/, "/*")), `${where} is ${type}`);
    if (type !== "application/json") return;
    this.assertSchema(response.content[type].schema, answer.json, where);
  }

  /** Checks a value against a schema of the description. */
  assertSchema(schema, value, where) {
    // References within the description are given from outside of it.
    const rooted = JSON.parse(JSON.stringify(schema).replaceAll('"$ref":"#', '"$ref":"api#'));
    const validate = this.ajv.compile(rooted);
    assert.ok(validate(value), `${where}: ${this.ajv.errorsText(validate.errors)}: ${JSON.stringify(value)}`);
  }
}
