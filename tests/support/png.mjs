/** Reads and writes the simplest PNG files, so that the tests judge pictures without the code under test. */

import { crc32, deflateSync, inflateSync } from "node:zlib";

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/** The size of a PNG file and its unpacked rows; throws where the file is not whole. */
export function readPng(bytes) {
  if (!bytes.subarray(0, 8).equals(SIGNATURE)) throw new Error("not a PNG file");
  const chunks = [];
  for (let at = 8; at < bytes.length; ) {
    const length = bytes.readUInt32BE(at);
    const type = bytes.toString("latin1", at + 4, at + 8);
    const end = at + 8 + length;
    if (bytes.readUInt32BE(end) !== crc32(bytes.subarray(at + 4, end))) throw new Error(`${type}: wrong checksum`);
    chunks.push({ type, data: bytes.subarray(at + 8, end) });
    at = end + 4;
  }
  if (chunks.at(-1)?.type !== "IEND") throw new Error("the file is cut off");
  const [header] = chunks;
  const data = inflateSync(Buffer.concat(chunks.filter(({ type }) => type === "IDAT").map((chunk) => chunk.data)));
  return { width: header.data.readUInt32BE(0), height: header.data.readUInt32BE(4), data };
}

/** Reads the pixels of an RGB picture: `pixel(x, y)` gives `[r, g, b]`. */
export function readPixels(bytes) {
  const { width, height, data } = readPng(bytes);
  const stride = 3 * width;
  const rows = [];
  for (let y = 0; y < height; y++) {
    const filter = data[y * (stride + 1)];
    const row = Buffer.from(data.subarray(y * (stride + 1) + 1, (y + 1) * (stride + 1)));
    for (let i = 0; i < stride; i++) {
      const left = i < 3 ? 0 : row[i - 3];
      const up = rows[y - 1]?.[i] ?? 0;
      const corner = i < 3 ? 0 : (rows[y - 1]?.[i - 3] ?? 0);
      row[i] += [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter];
    }
    rows.push(row);
  }
  return (x, y) => [...rows[y].subarray(3 * x, 3 * x + 3)];
}

/** Whichever of the three is nearest to `left + up - corner`. */
function paeth(left, up, corner) {
  const [toLeft, toUp, toCorner] = [up - corner, left - corner, left + up - 2 * corner].map(Math.abs);
  if (toLeft <= toUp && toLeft <= toCorner) return left;
  return toUp <= toCorner ? up : corner;
}

/** An RGB picture; `pixel(x, y)` gives `[r, g, b]`. */
export function writePng(width, height, pixel) {
  const rows = [];
  for (let y = 0; y < height; y++) {
    rows.push(0); // no filter
    for (let x = 0; x < width; x++) rows.push(...pixel(x, y));
  }
  return file(width, height, Buffer.from(rows));
}

/** A file that says that it is this large, and holds nothing. */
export function hollowPng(width, height) {
  return file(width, height, Buffer.alloc(0));
}

function file(width, height, rows) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8); // 8 bits, RGB
  const chunks = [chunk("IHDR", header), chunk("IDAT", deflateSync(rows)), chunk("IEND", Buffer.alloc(0))];
  return Buffer.concat([SIGNATURE, ...chunks]);
}

function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(data.length);
  sum.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, sum]);
}
