// Reads the headers of files with dcmjs or dicom-parser, and prints the seconds it took as JSON.
// FIRST is read before the clock starts, so that what loads late is loaded.
//   node readers.mjs dcmjs|dicom-parser FIRST FOLDER
import fs from "node:fs";
import path from "node:path";

const TEXT = new Set(["AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]);
const NUMBERS = {
  US: [2, "getUint16"], SS: [2, "getInt16"], UL: [4, "getUint32"], SL: [4, "getInt32"],
  FL: [4, "getFloat32"], FD: [8, "getFloat64"],
};
const BULK = 1024;

// dicom-parser only finds elements; what becomes of values is written here, in the plainest way
function valueOf(bytes, view, element) {
  const { vr, dataOffset, length } = element;
  if (vr === "SQ" || element.items) {
    return { vr: "SQ", Value: (element.items ?? []).map((item) => json(item.dataSet)) };
  }
  if (length === 0) return { vr };
  if (vr in NUMBERS) {
    const [size, get] = NUMBERS[vr];
    const Value = [];
    for (let at = 0; at + size <= length; at += size) Value.push(view[get](dataOffset + at, true));
    return { vr, Value };
  }
  if (vr === "IS" || vr === "DS" || TEXT.has(vr)) {
    let end = dataOffset + length;
    while (end > dataOffset && (bytes[end - 1] === 0 || bytes[end - 1] === 32)) end--;
    const texts = Buffer.from(bytes.buffer, bytes.byteOffset + dataOffset, end - dataOffset)
      .latin1Slice().split("\\");
    if (vr === "PN") return { vr, Value: texts.map((text) => ({ Alphabetic: text })) };
    return { vr, Value: vr === "IS" || vr === "DS" ? texts.map(Number) : texts };
  }
  if (vr === "AT") {
    return { vr, Value: [[0, 2].map((at) => view.getUint16(dataOffset + at, true).toString(16).padStart(4, "0")).join("").toUpperCase()] };
  }
  if (length > BULK) return { vr };
  return { vr, InlineBinary: Buffer.from(bytes.buffer, bytes.byteOffset + dataOffset, length).toString("base64") };
}

function json(dataset) {
  const bytes = dataset.byteArray;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const result = {};
  for (const tag in dataset.elements) {
    if (!tag.startsWith("x0002")) {
      result[tag.slice(1).toUpperCase()] = valueOf(bytes, view, dataset.elements[tag]);
    }
  }
  return result;
}

async function reader(name) {
  if (name === "dcmjs") {
    const { default: dcmjs } = await import("dcmjs");
    dcmjs.log.setLevel("silent");
    return (file) => {
      const bytes = fs.readFileSync(file);
      const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
      return JSON.stringify(dcmjs.data.DicomMessage.readFile(buffer).dict);
    };
  }
  const { default: parser } = await import("dicom-parser");
  return (file) => JSON.stringify(json(parser.parseDicom(fs.readFileSync(file))));
}

const [name, first, folder] = process.argv.slice(2);
const files = fs.readdirSync(folder).sort().map((file) => path.join(folder, file));
const read = await reader(name);
read(first);
const begin = process.hrtime.bigint();
let size = 0;
for (const file of files) size += read(file).length;
const seconds = Number(process.hrtime.bigint() - begin) / 1e9;
console.log(JSON.stringify({ seconds, files: files.length, size }));
