// The rating page. It knows clips by random names only; the server decides what is shown, where and when.

const token = location.pathname.split("/").pop();
const $ = (id) => document.getElementById(id);
const sections = document.querySelectorAll("main > section");

let state = null; // the last reply to "what next?"
let question = null; // the question that was last announced
let videos = [];
let unlocked = false; // every clip has played to its end
let chosen = null; // an answer that is being stored, or was
let ranking = [];
let shownAt = 0;
let playing = false;

async function call(path, body) {
  const sent = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path.startsWith("/") ? path : `/api/${token}/${path}`, sent || {});
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const error = new Error(answer.error || "The server did not answer as it should. Please try again.");
  throw Object.assign(error, { final: response.status === 404 });
}

function say(sentence) {
  $("status").textContent = sentence;
}

function open(id) {
  for (const section of sections) section.hidden = section.id !== id;
  $("progress").hidden = $("pause").hidden = id !== "screen";
  $("leave").hidden = !["screen", "done"].includes(id);
  scrollTo(0, 0);
}

function fail(error, again) {
  say("");
  $("message").querySelector("h1").textContent = error instanceof TypeError ? "There is no connection." : error.message;
  $("again").hidden = error.final || !again;
  $("again").onclick = again;
  open("message");
  $($("again").hidden ? "main" : "again").focus();
}

async function advance(next = () => call("state")) {
  say("");
  try {
    state = await next();
  } catch (error) {
    fail(error, () => advance());
    return;
  }
  document.title = state.title;
  if (state.phase === "consent") showConsent();
  else if (state.phase === "done") showDone();
  else if (state.screen.question !== question || state.practice !== practised) showBlock();
  else showScreen();
}

function showConsent() {
  $("consent").querySelector("h1").textContent = state.title;
  $("consent-text").textContent = state.consent;
  $("minutes").textContent = `It takes about ${state.minutes} ${state.minutes === 1 ? "minute" : "minutes"}.`;
  $("contact").textContent = `Questions? ${state.contact}`;
  $("contact").hidden = !state.contact;
  open("consent");
  $("agree").focus();
}

let practised = null;

function showBlock() {
  const again = question === state.screen.question;
  const resumed = question === null && !state.practice && state.done > 0;
  question = state.screen.question;
  practised = state.practice;
  const heading = state.practice ? "First, some practice" : again ? "Now it counts" : resumed ? "Welcome back" : "The question";
  $("block").querySelector("h1").textContent = heading;
  $("block-question").textContent = question;
  open("block");
  $("begin").focus();
}

function showDone() {
  $("stage").textContent = "Finished";
  $("code").textContent = state.code;
  open("done");
  $("main").focus();
}

const SIDES = [
  { choice: "left", label: "Left", key: "←", name: "ArrowLeft" },
  { choice: "tie", label: "No difference", key: "↓", name: "ArrowDown" },
  { choice: "right", label: "Right", key: "→", name: "ArrowRight" },
];

function showScreen() {
  const { screen } = state;
  [unlocked, chosen, ranking] = [false, null, []];
  $("stage").textContent = state.practice ? `Practice ${state.done + 1} of ${state.of}` : `${state.done + 1} of ${state.of}`;
  $("progress").max = state.of;
  $("progress").value = state.done;
  $("question").textContent = screen.question;
  $("reference").src = screen.reference;
  $("choices").hidden = false;
  $("after").hidden = true;
  showClips(screen.clips);
  const two = screen.clips.length === 2;
  const sides = two ? SIDES : screen.clips.map((_, i) => ({ choice: String(i), label: `Clip ${i + 1}`, key: String(i + 1), name: String(i + 1) }));
  $("choices").replaceChildren(...sides.map(choiceButton));
  open("screen");
  say(two ? "Watch both clips to the end." : "Watch all clips to the end, then choose them from best to worst.");
  $("main").focus();
  shownAt = performance.now();
}

function choiceButton({ choice, label, key, name }) {
  const button = document.createElement("button");
  const hint = document.createElement("kbd");
  hint.textContent = key;
  hint.ariaHidden = "true";
  button.append(label, hint);
  button.disabled = true;
  button.dataset.choice = choice;
  button.setAttribute("aria-keyshortcuts", name);
  button.setAttribute("aria-pressed", "false");
  button.onclick = () => choose(choice);
  return button;
}

function showClips(clips) {
  const label = (i) => (clips.length > 2 ? `Clip ${i + 1}` : i ? "Right clip" : "Left clip");
  videos = clips.map((clip, i) => {
    const video = document.createElement("video");
    Object.assign(video, { muted: true, playsInline: true, preload: "auto", ariaLabel: label(i) });
    video.disablePictureInPicture = true;
    for (const kind of ["webm", "mp4"]) {
      const source = document.createElement("source");
      Object.assign(source, { src: clip[kind], type: `video/${kind}` });
      video.append(source);
    }
    video.lastChild.onerror = () => fail(new Error("A clip could not be loaded."), () => advance());
    video.onended = ended;
    video.onloadedmetadata = () => $("clips").style.setProperty("--ratio", video.videoWidth / video.videoHeight);
    return video;
  });
  $("clips").style.setProperty("--count", clips.length);
  $("clips").replaceChildren(...videos);
  const all = videos;
  const ready = videos.map((video) => new Promise((resolve) => (video.oncanplaythrough = resolve)));
  setPlaying(!matchMedia("(prefers-reduced-motion: reduce)").matches, false);
  const late = new Promise((resolve) => setTimeout(resolve, 5000)); // some phones load nothing before play()
  Promise.race([Promise.all(ready), late]).then(() => {
    if (all === videos && playing) restart();
  });
}

// In step: no clip loops by itself. When all have ended, all begin anew, and one that runs ahead is set back.
function restart() {
  for (const video of videos) video.currentTime = 0;
  play();
}

function play() {
  const all = videos;
  Promise.all(videos.map((video) => video.play())).catch(() => all === videos && setPlaying(false));
}

function setPlaying(wanted, act = true) {
  playing = wanted;
  $("pause").textContent = wanted ? "Pause" : "Play";
  if (!act) return;
  if (!wanted) for (const video of videos) video.pause();
  else if (videos.every((video) => video.ended)) restart();
  else play();
}

function ended() {
  if (!videos.every((video) => video.ended)) return;
  if (!unlocked) unlock();
  const all = videos;
  setTimeout(() => all === videos && playing && restart(), 400);
}

setInterval(() => {
  if (!playing || videos.some((video) => video.paused || video.ended)) return;
  const first = Math.min(...videos.map((video) => video.currentTime));
  for (const video of videos) if (video.currentTime - first > 0.08) video.currentTime = first;
}, 250);

function unlock() {
  unlocked = true;
  for (const button of $("choices").children) button.disabled = false;
  say("You can choose now.");
}

function choose(choice) {
  if (!unlocked || chosen !== null) return;
  if (videos.length > 2) {
    if (ranking.includes(choice)) return;
    ranking.push(choice);
    const button = $("choices").children[Number(choice)];
    button.setAttribute("aria-pressed", "true");
    button.lastChild.textContent = `rank ${ranking.length}`;
    button.lastChild.ariaHidden = "false";
    if (ranking.length < videos.length - 1) {
      say("And the best of the others?");
      return;
    }
    const last = videos.map((_, i) => String(i)).find((i) => !ranking.includes(i));
    choice = [...ranking, last].join("-");
  } else {
    for (const button of $("choices").children)
      button.setAttribute("aria-pressed", String(button.dataset.choice === choice));
  }
  chosen = choice;
  const seconds = (performance.now() - shownAt) / 1000;
  store(choice, seconds);
}

async function store(choice, seconds) {
  for (const button of $("choices").children) button.disabled = true;
  say("Saving …");
  let answer;
  try {
    answer = await call("vote", { trial: state.screen.trial, choice, seconds });
  } catch (error) {
    fail(error, () => {
      open("screen");
      store(choice, seconds);
    });
    return;
  }
  showAfter(answer);
}

const ANSWERS = {
  left: "The right clip does not keep the image: “Left” was the answer.",
  right: "The left clip does not keep the image: “Right” was the answer.",
  tie: "It was one clip twice: “No difference” was the answer.",
};

function showAfter(answer) {
  const side = SIDES.find((each) => each.choice === answer.choice);
  const why = answer.right ? "Correct." : ANSWERS[answer.answer] || "The ruined clip belongs to the end.";
  $("verdict").textContent = state.practice ? why : `Saved: ${side ? side.label.toLowerCase() : "your order"}.`;
  say("");
  $("choices").hidden = true;
  $("note").reset();
  $("tags").hidden = state.practice || !state.tags.length;
  $("feedback").hidden = $("feedback-label").hidden = state.practice || !state.feedback;
  $("tags").replaceChildren($("tags").firstElementChild, ...state.tags.map(tagBox));
  $("after").hidden = false;
  $("next").focus({ preventScroll: true });
}

function tagBox(tag) {
  const label = document.createElement("label");
  const box = document.createElement("input");
  Object.assign(box, { type: "checkbox", name: "tag", value: tag });
  label.append(box, tag);
  return label;
}

async function next() {
  $("next").disabled = true;
  const { trial } = state.screen;
  const feedback = $("feedback").value.trim();
  const tags = [...$("tags").querySelectorAll(":checked")].map((box) => box.value);
  await advance(async () => {
    if (feedback || tags.length) await call("note", { trial, feedback, tags });
    return call("state");
  });
  $("next").disabled = false;
}

$("agree").onclick = () => advance(() => call("consent", {}));
$("begin").onclick = showScreen;
$("next").onclick = next;
$("note").onsubmit = (event) => event.preventDefault();
$("pause").onclick = () => setPlaying(!playing);
$("leave").onclick = () => $("withdraw").showModal();
$("withdraw").onclose = async () => {
  if ($("withdraw").returnValue !== "delete") return;
  try {
    await call("/api/withdraw", { code: state.code });
    setPlaying(false);
    fail(new Error("All your answers are deleted."), null);
  } catch (error) {
    fail(error, () => advance());
  }
};

document.addEventListener("keydown", (event) => {
  const busy = $("screen").hidden || $("withdraw").open || event.target.matches("textarea, input");
  if (busy || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  const button = [...$("choices").children].find((each) => each.getAttribute("aria-keyshortcuts") === event.key);
  if (button) button.click();
  else if (event.key === " " && !event.target.matches("button")) $("pause").click();
  else return;
  event.preventDefault();
});

advance();
