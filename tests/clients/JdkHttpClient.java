// The JDK's HttpClient, which offers HTTP/2: BASE_URL SCENARIO PROMPT; prints what it got as JSON.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletionException;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

class JdkHttpClient {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newHttpClient();
        var steps = arguments[1].equals("refused") ? 0 : arguments[1].equals("leave") ? 150 : 2;
        var n = arguments[1].equals("two") ? 2 : 1;
        var stream = arguments[1].equals("stream") ? ", \"stream\": true, \"partial_images\": 1" : "";
        var body = String.format(
            "{\"model\": \"original\", \"prompt\": \"%s\", \"n\": %d, \"size\": \"96x96\", "
                + "\"seed\": 7, \"num_inference_steps\": %d%s}", arguments[2], n, steps, stream);
        var request = HttpRequest.newBuilder(URI.create(arguments[0] + "/v1/images/generations"))
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(body)).build();

        if (arguments[1].equals("leave")) {
            var drawing = client.sendAsync(request, BodyHandlers.ofString());
            System.in.read();
            drawing.cancel(true);
            try {
                drawing.join();
            } catch (CancellationException | CompletionException fault) {
                System.out.println("{\"error\": \"cancelled\"}");
            }
        } else if (arguments[1].equals("stream")) {
            var text = client.send(request, BodyHandlers.ofLines()).body()
                .collect(Collectors.joining("\n"));
            System.out.printf("{\"events\": [%s], \"images\": [%s]}%n",
                values(text, "type"), values(text.substring(text.lastIndexOf("event:")), "b64_json"));
        } else {
            var response = client.send(request, BodyHandlers.ofString());
            if (response.statusCode() == 200) {
                System.out.printf("{\"images\": [%s]}%n", values(response.body(), "b64_json"));
            } else {
                System.out.printf("{\"error\": \"%d\", \"text\": %s}%n",
                    response.statusCode(), response.body());
            }
        }
        System.exit(0);
    }

    /** The JDK reads no JSON. */
    static String values(String json, String field) {
        return Pattern.compile("\"" + field + "\": *(\"[^\"]*\")").matcher(json).results()
            .map(match -> match.group(1)).collect(Collectors.joining(", "));
    }
}
