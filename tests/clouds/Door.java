// The door of a Google bucket: lets in who bears a token that the service account has signed, as
// Google's XML API does, and passes everything on to a server of S3's protocol, whose requests and
// answers that API shares. It keeps nothing and knows nothing of objects.
//
//   java Door PUBLIC_KEY_DER ACCOUNT UPSTREAM     prints its port, answers until it is ended

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.PublicKey;
import java.security.Signature;
import java.security.spec.X509EncodedKeySpec;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public final class Door {
  static final List<String> FROM_CLIENT = List.of("content-type", "content-md5", "range");
  static final List<String> FROM_SERVER = List.of("content-type", "etag", "last-modified");
  static final Pattern EXPIRY = Pattern.compile("\"exp\":([0-9]+)");

  final HttpClient client =
      HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
  final PublicKey key;
  final String issuer;
  final String upstream;

  Door(PublicKey key, String account, String upstream) {
    this.key = key;
    this.issuer = "\"iss\":\"" + account + "\"";
    this.upstream = upstream;
  }

  public static void main(String[] words) throws Exception {
    byte[] der = Files.readAllBytes(Path.of(words[0]));
    PublicKey key = KeyFactory.getInstance("RSA").generatePublic(new X509EncodedKeySpec(der));
    Door door = new Door(key, words[1], words[2]);
    InetAddress here = InetAddress.getByName("127.0.0.1");
    HttpServer server = HttpServer.create(new InetSocketAddress(here, 0), 0);
    server.setExecutor(Executors.newFixedThreadPool(8));
    server.createContext("/", door::answer);
    server.start();
    System.out.println("PORT " + server.getAddress().getPort());
  }

  void answer(HttpExchange exchange) throws IOException {
    byte[] body = exchange.getRequestBody().readAllBytes();
    try {
      String bearer = exchange.getRequestHeaders().getFirst("authorization");
      if (bearer == null || !admits(bearer.replaceFirst("^Bearer ", ""))) {
        refuse(exchange);
      } else {
        pass(exchange, body);
      }
    } catch (IOException error) {
      throw error;
    } catch (Exception error) {
      throw new IOException(error);
    } finally {
      exchange.close();
    }
  }

  boolean admits(String token) throws Exception {
    String[] parts = token.split("\\.");
    if (parts.length != 3) {
      return false;
    }
    Signature signature = Signature.getInstance("SHA256withRSA");
    signature.initVerify(key);
    signature.update((parts[0] + "." + parts[1]).getBytes(StandardCharsets.US_ASCII));
    byte[] payload = Base64.getUrlDecoder().decode(parts[1]);
    String claims = new String(payload, StandardCharsets.UTF_8);
    Matcher expiry = EXPIRY.matcher(claims);
    return signature.verify(Base64.getUrlDecoder().decode(parts[2]))
        && claims.contains(issuer)
        && expiry.find()
        && System.currentTimeMillis() / 1000 < Long.parseLong(expiry.group(1));
  }

  static void refuse(HttpExchange exchange) throws IOException {
    byte[] text =
        ("<?xml version='1.0' encoding='UTF-8'?><Error><Code>AuthenticationRequired</Code>"
                + "<Message>Authentication required.</Message></Error>")
            .getBytes(StandardCharsets.UTF_8);
    exchange.getResponseHeaders().set("content-type", "application/xml");
    exchange.sendResponseHeaders(401, text.length);
    exchange.getResponseBody().write(text);
  }

  void pass(HttpExchange exchange, byte[] body) throws Exception {
    HttpRequest.Builder request =
        HttpRequest.newBuilder(URI.create(upstream + exchange.getRequestURI()))
            .method(exchange.getRequestMethod(), HttpRequest.BodyPublishers.ofByteArray(body));
    for (String name : FROM_CLIENT) {
      String value = exchange.getRequestHeaders().getFirst(name);
      if (value != null) {
        request.header(name, value);
      }
    }
    HttpResponse<byte[]> answer =
        client.send(request.build(), HttpResponse.BodyHandlers.ofByteArray());
    for (String name : FROM_SERVER) {
      answer.headers().firstValue(name).ifPresent(it -> exchange.getResponseHeaders().set(name, it));
    }
    byte[] said = answer.body();
    exchange.sendResponseHeaders(answer.statusCode(), said.length == 0 ? -1 : said.length);
    if (said.length > 0) {
      exchange.getResponseBody().write(said);
    }
  }
}
