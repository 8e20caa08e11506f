#!/bin/sh
# Makes a certificate authority of a lab's own and a certificate of it: certificates.sh HOST FOLDER
# HOST is a name or an address; the folder then has ca.pem (for everybody), ca.key (keep it), yard.pem and yard.key (for the proxy).
set -eu
host=$1 folder=$2
case $host in *[!0-9.]*) name=DNS:$host ;; *) name=IP:$host ;; esac
mkdir -p "$folder"
cd "$folder"
umask 077
if [ ! -e ca.pem ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -keyout ca.key -out ca.pem \
        -subj "/CN=Trainyard of $host" -addext keyUsage=critical,keyCertSign,cRLSign
fi
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout yard.key -out yard.csr -subj "/CN=$host"
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\nbasicConstraints=critical,CA:FALSE\n' "$name" >yard.ext
openssl x509 -req -in yard.csr -CA ca.pem -CAkey ca.key -days 825 -extfile yard.ext -out yard.pem
rm yard.csr yard.ext
chmod 644 ca.pem yard.pem
