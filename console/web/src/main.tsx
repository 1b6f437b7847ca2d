import "./app.css";
import { render } from "preact";
import { text } from "./strings";

render(<h1>Millrace: {text.devices}</h1>, document.body);
