"use strict";
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8b6cff"];
const DASHES = ["", "14 6", "4 5", "18 5 4 5"];
const get = (id) => document.getElementById(id);

function say(message, error = false) {
  get("status").textContent = message;
  get("status").className = error ? "error" : "";
}

async function hear(blob, name) {
  say("Listening …");
  get("result").hidden = true;
  try {
    const answer = await fetch("hear", { method: "POST", body: blob, headers: { "Content-Type": "application/octet-stream" } });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    show(told, name);
    if (get("player").src) URL.revokeObjectURL(get("player").src);
    get("player").src = URL.createObjectURL(blob);
    say(`${told.seconds.toFixed(2)} s of audio, heard in ${told.took.toFixed(2)} s`);
  } catch (error) {
    say(error.message, true);
  }
}

function show(told, name) {
  get("emotion").textContent = told.emotion;
  get("name").textContent = name;
  get("text").textContent = told.text || "(no words)";
  const rows = Object.entries(told.scores).map(([label, score]) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.textContent = label;
    const meter = document.createElement("meter");
    meter.value = score;
    row.append(head, cell(meter), cell(score.toFixed(3)));
    return row;
  });
  get("scores").tBodies[0].replaceChildren(...rows);
  draw(told);
  get("result").hidden = false;
}

function cell(content) {
  const made = document.createElement("td");
  made.append(content);
  return made;
}

function shape(kind, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function draw(told) {
  const x = (seconds) => 30 + (960 * seconds) / told.seconds;
  const y = (score) => 190 - 180 * score;
  const shapes = [0, 0.5, 1].map((s) => shape("text", { x: 2, y: y(s) + 4, "font-size": 12, fill: "currentColor" }, s));
  for (let n = 0; n <= 5; n++) {
    const seconds = (told.seconds * n) / 5;
    const anchor = n === 0 ? "start" : n === 5 ? "end" : "middle";
    shapes.push(shape("text", { x: x(seconds), y: 212, "font-size": 12, "text-anchor": anchor, fill: "currentColor" }, `${seconds.toFixed(1)} s`));
  }
  const items = Object.keys(told.scores).map((label, n) => {
    const points = told.timeline.flatMap((p) => [`${x(p.start)},${y(p.scores[label])}`, `${x(p.end)},${y(p.scores[label])}`]);
    const colour = COLOURS[n % COLOURS.length];
    shapes.push(shape("polyline", { points: points.join(" "), fill: "none", stroke: colour, "stroke-width": 3, "stroke-dasharray": DASHES[n % DASHES.length] }));
    const item = document.createElement("li");
    const key = document.createElement("i");
    key.style.background = colour;
    item.append(key, label);
    return item;
  });
  get("timeline").replaceChildren(...shapes);
  get("legend").replaceChildren(...items);
}

// Browsers record formats that libsndfile does not read, so recordings are sent as 16-bit WAV.
async function toWav(blob) {
  const context = new AudioContext();
  const audio = await context.decodeAudioData(await blob.arrayBuffer());
  await context.close();
  const samples = audio.getChannelData(0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const put = (at, text) => [...text].forEach((char, n) => view.setUint8(at + n, char.charCodeAt(0)));
  put(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); put(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, audio.sampleRate, true); view.setUint32(28, 2 * audio.sampleRate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true); put(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, n) => view.setInt16(44 + 2 * n, Math.max(-1, Math.min(1, value)) * 32767, true));
  return new Blob([view], { type: "audio/wav" });
}

let recorder = null;
async function record() {
  if (recorder) return recorder.stop();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = async () => {
      stream.getTracks().forEach((track) => track.stop());
      recorder = null;
      get("record").textContent = "Record";
      try {
        hear(await toWav(new Blob(parts)), "recording");
      } catch (error) {
        say(`the recording cannot be used: ${error.message}`, true);
      }
    };
    recorder.start();
    get("record").textContent = "Stop";
    say("Recording …");
  } catch (error) {
    recorder = null;
    say(`no microphone: ${error.message}`, true);
  }
}

const drop = get("drop");
get("file").onchange = (event) => event.target.files.length && hear(event.target.files[0], event.target.files[0].name);
get("record").onclick = record;
drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
drop.ondragleave = () => drop.classList.remove("over");
drop.ondrop = (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) hear(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
};
fetch("about").then((answer) => answer.json()).then((told) => { get("about").textContent = told.about; });
