const byId = (id) => document.getElementById(id);
const input = byId("input"), output = byId("output"), status = byId("status");
const pen = input.getContext("2d", { willReadFrequently: true });
const MOST_PIXELS = 1 << 21;
let session = null, busy = false, again = false;

function bytesOf(id) {
  const text = atob(byId(id).textContent), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  byId(id).remove();
  return bytes;
}

async function load() {
  const url = URL.createObjectURL(new Blob([bytesOf("runtime")], { type: "text/javascript" }));
  const ort = await import(url);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = bytesOf("wasm").buffer;
  session = await ort.InferenceSession.create(bytesOf("model"), { executionProviders: ["wasm"] });
  window.restore = async (rgb, width, height) => {
    const image = new ort.Tensor("uint8", rgb, [1, height, width, 3]);
    return (await session.run({ image })).restored.data;
  };
}

function rgbOf(canvas) {
  const { width, height } = canvas, rgba = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const rgb = new Uint8Array(width * height * 3);
  for (let i = 0, o = 0; i < rgba.length; i += 4) { rgb[o++] = rgba[i]; rgb[o++] = rgba[i + 1]; rgb[o++] = rgba[i + 2]; }
  return rgb;
}

async function run() {
  if (!session) return;
  if (busy) { again = true; return; }
  busy = true;
  byId("run").disabled = true;
  const { width, height } = input, began = performance.now();
  try {
    const rgb = await window.restore(rgbOf(input), width, height);
    output.width = width; output.height = height;
    const image = new ImageData(width, height);
    for (let i = 0, o = 0; o < rgb.length; i += 4) {
      image.data[i] = rgb[o++]; image.data[i + 1] = rgb[o++]; image.data[i + 2] = rgb[o++]; image.data[i + 3] = 255;
    }
    output.getContext("2d").putImageData(image, 0, 0);
    status.textContent = `${width} × ${height} in ${((performance.now() - began) / 1000).toFixed(2)} s`;
    byId("save").disabled = false;
  } catch (error) {
    status.textContent = `The model failed on this image: ${error.message}`;
  }
  busy = false;
  byId("run").disabled = false;
  if (again) { again = false; run(); }
}

async function show(file) {
  if (!file || !file.type.startsWith("image/")) { status.textContent = "That is not an image."; return; }
  try {
    const image = await createImageBitmap(file);
    const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (image.width * image.height)));
    input.width = Math.max(1, Math.round(image.width * scale));
    input.height = Math.max(1, Math.round(image.height * scale));
    blank();
    pen.drawImage(image, 0, 0, input.width, input.height);
    if (scale < 1) status.textContent = `Scaled to ${input.width} × ${input.height}`;
    await run();
  } catch {
    status.textContent = "This browser cannot read that image.";
  }
}

function blank() {
  pen.fillStyle = "#ffffff";
  pen.fillRect(0, 0, input.width, input.height);
}

function place(event) {
  const box = input.getBoundingClientRect();
  const scale = Math.min(box.width / input.width, box.height / input.height);
  const left = (box.width - input.width * scale) / 2, top = (box.height - input.height * scale) / 2;
  return [(event.clientX - box.left - left) / scale, (event.clientY - box.top - top) / scale];
}

let last = null;
input.addEventListener("pointerdown", (event) => { last = place(event); input.setPointerCapture(event.pointerId); draw(event); });
input.addEventListener("pointermove", (event) => { if (last) draw(event); });
for (const end of ["pointerup", "pointercancel"]) input.addEventListener(end, () => { if (last) { last = null; run(); } });
function draw(event) {
  const here = place(event);
  pen.strokeStyle = byId("color").value;
  pen.lineWidth = Number(byId("width").value);
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(...last);
  pen.lineTo(...here);
  pen.stroke();
  last = here;
}

document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("dropping"); show(event.dataTransfer.files[0]); });
document.addEventListener("paste", (event) => { const file = event.clipboardData.files[0]; if (file) show(file); });
byId("file").addEventListener("change", (event) => show(event.target.files[0]));
byId("run").addEventListener("click", run);
byId("clear").addEventListener("click", () => { input.width = input.height = Number("{{ side }}") || 256; blank(); });
byId("save").addEventListener("click", () => output.toBlob((blob) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = "output.png";
  link.click();
}));

blank();
load().then(
  () => { byId("run").disabled = false; status.textContent = "Ready."; },
  (error) => { status.textContent = `The model could not be loaded: ${error.message}`; },
);
