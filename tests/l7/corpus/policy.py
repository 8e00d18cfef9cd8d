"""The policy that the corpus is about: what is public, what is not, and an entry for each kind of condition."""

TEXT = """\
policy api for { app == api } {
  ingress {
    allow from { app == web } on tcp/8080-8099 http {
      GET, HEAD, POST, PUT "/public/**"
      deny * "/public/internal/**"
      deny * header "X-Debug"
      OPTIONS "*"
      GET "/live" upgrade "websocket"
      DELETE "/items/*" body
      GET "/shop" host "shop.example", "*.shop.example"
      GET "/role" header "X-Role" "reader"
      GET "/plain" header "X-Forwarded-For" absent
      GET "/page" query "n" ~"[0-9]+"
    } as pages
  }
}
"""
HIDDEN = "/public/internal/key"  # what the attacks are after
